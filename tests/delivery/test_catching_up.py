"""An inflow that fell behind: every event once and in its turn, and once it has caught up nothing is read from the disk again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgehost.delivery import inflow as module
from edgehost.delivery import pending
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.ending import Entry
from edgehost.delivery.inflow import ACCEPTED, Inflow, Inlet
from edgehost.delivery.journal import Journal
from edgehost.delivery.rows import Change
from edgehost.event import Event, Response

LOG: Any = logging.LoggerAdapter(logging.getLogger("test"), {})


class Flow:
    """An inflow over a journal of its own, and a function that answers when it is told to."""

    def __init__(self, journal: Journal, queue: int, window: int) -> None:
        self.at_once = False
        self.given: list[int] = []
        self._unanswered: list[tuple[asyncio.Future[Response], Entry]] = []
        self._journal = journal
        inlet = Inlet(queue, window, True, 0.0, lambda _reason: None, LOG)
        self.inflow = Inflow(inlet, journal, Allowance(1 << 30), self._deliver)
        self.inflow.start()

    def _deliver(self, event: Event, entry: Entry) -> asyncio.Future[Response]:
        self.given.append(int(event.id))
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        if self.at_once:
            future.set_result(Response())
        else:
            self._unanswered.append((future, entry))
        return future

    async def answer(self, count: int) -> None:
        """The first so many of those it has are answered, and settled."""
        for future, entry in [self._unanswered.pop(0) for _ in range(min(count, len(self._unanswered)))]:
            await self._journal.committed(Change(settled=(entry.place,)))
            future.set_result(Response())
        await asyncio.sleep(0)

    async def all_given(self, count: int) -> None:
        """Answer until the function has had so many."""
        while len(self.given) < count:
            await self.answer(100)


@pytest.fixture
async def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Journal]:
    monkeypatch.setattr(module, "_READY", 16)
    for place in (module, pending):
        monkeypatch.setattr(place, "PAGE", 4)
    one = Journal(tmp_path / "journal.db")
    await one.open()
    yield one
    await one.close()


@pytest.mark.parametrize("seed", range(8))
async def test_every_event_has_its_turn_once(journal: Journal, seed: int) -> None:
    luck = random.Random(seed)
    flow = Flow(journal, await journal.queue("event", "f", "t"), luck.choice((1, 5, 40)))
    futures: list[asyncio.Future[Response]] = []
    while len(futures) < 400:
        for _ in range(luck.choice((1, 1, 3, 60))):
            futures.append(flow.inflow.receive(Event(b"x", id=str(len(futures)))))
        for _ in range(luck.choice((0, 1, 4))):
            await asyncio.sleep(luck.choice((0, 0.001)))
        await flow.answer(luck.choice((0, 2, 30)))
    assert {response.code or response.status for response in await asyncio.gather(*futures)} == {ACCEPTED.status}
    await asyncio.wait_for(flow.all_given(len(futures)), 20)
    assert flow.given == list(range(len(futures)))


async def test_a_source_without_a_pause_is_caught_up_with(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    page = module.page

    def counted(*asked: Any) -> Any:
        found = page(*asked)
        read.append(len(found[0]))
        return found

    monkeypatch.setattr(module, "page", counted)
    flow = Flow(journal, await journal.queue("event", "f", "t"), 8)
    numbers = iter(range(400))

    async def source() -> None:
        for number in numbers:
            await flow.inflow.receive(Event(b"x", id=str(number)))

    # The first forty are more than it keeps ready; from then on some are always on their way to the disk.
    await asyncio.gather(*(flow.inflow.receive(Event(b"x", id=str(next(numbers)))) for _ in range(40)))
    flow.at_once = True
    await flow.answer(8)
    await asyncio.gather(*(source() for _ in range(4)))
    await asyncio.wait_for(flow.all_given(400), 20)
    assert flow.given == list(range(400))
    assert 0 < sum(read) < 200, "once behind, it read every later event from the disk as well"
