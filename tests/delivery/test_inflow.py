"""Inflow: durable events are on disk before they count, have their turn once and in order, and wait where the function cannot."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from edgehost.backoff import Backoff
from edgehost.delivery import inflow as module
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.ending import STAYS, Entry
from edgehost.delivery.inflow import ACCEPTED, Inflow, Inlet
from edgehost.delivery.journal import Journal
from edgehost.delivery.pending import PAGE
from edgehost.delivery.rows import Change
from edgehost.delivery.window import Window
from edgehost.event import Event, Response, failure
from edgehost.manifest.model import Queue

PATIENCE_S = float(os.environ.get("EDGEHOST_TEST_PATIENCE_S", "30"))
LOG: Any = logging.LoggerAdapter(logging.getLogger("edgehost.test"), {})


class Function:
    """Holds what it is given until it is told to answer; `room` is how many it takes, more of them come back."""

    def __init__(self, journal: Journal) -> None:
        self.given: list[str] = []
        self.begun: list[str] = []
        self.room = 1 << 30
        self.refusal = "queue_full"
        self.entries: list[tuple[asyncio.Future[Response], Entry]] = []
        self._journal = journal

    def deliver(self, event: Event, entry: Entry) -> asyncio.Future[Response]:
        self.given.append(event.id)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        if len(self.entries) >= self.room:
            future.set_result(failure(self.refusal, "no"))
        else:
            self.begun.append(event.id)
            self.entries.append((future, entry))
        return future

    async def answer(self, count: int = 1, response: Response = Response()) -> None:  # noqa: B008 - a frozen value
        for _ in range(min(count, len(self.entries))):
            future, entry = self.entries.pop(0)
            if response.code not in STAYS:
                await self._journal.committed(Change(settled=(entry.place,)))
            future.set_result(response)
        await turns()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE_S:g} s for {what}")
        await asyncio.sleep(0.002)


class Bench:
    """A journal, an allowance and as many inflows as a test wants."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path)
        self.allowance = Allowance(1 << 20)
        self.function = Function(self.journal)
        self.told: list[str] = []
        self.inflows: list[Inflow] = []

    async def inflow(self, window: int = 4, patient: bool = True, trigger: str = "in") -> Inflow:
        await self.journal.open()
        queue = await self.journal.queue("event", "f", trigger)
        inlet = Inlet(queue, window, patient, 60.0, self.told.append, LOG)
        one = Inflow(inlet, self.journal, self.allowance, self.function.deliver)
        one.start()
        self.inflows.append(one)
        return one

    async def rows(self) -> int:
        return await self.journal.ask(lambda connection: connection.execute("SELECT count(*) FROM events").fetchone()[0])

    async def receive(self, inflow: Inflow, *numbers: int, size: int = 1) -> list[Response]:
        futures = [inflow.receive(Event(b"x" * size, id=str(number))) for number in numbers]
        return await asyncio.wait_for(asyncio.gather(*futures), PATIENCE_S)


@pytest.fixture
async def bench(tmp_path: Path, whole_again: None) -> AsyncIterator[Bench]:
    one = Bench(tmp_path / "journal.db")
    yield one
    for inflow in one.inflows:
        inflow.rest()
    await one.journal.close()


async def test_an_event_is_on_disk_before_its_source_is_told(bench: Bench) -> None:
    inflow = await bench.inflow()
    future = inflow.receive(Event(b"x", id="1"))
    assert not future.done()
    assert await asyncio.wait_for(future, PATIENCE_S) == ACCEPTED
    assert await bench.rows() == 1
    assert bench.allowance.events == 1
    await bench.function.answer()
    assert (await bench.rows(), bench.allowance.events, bench.allowance.used_bytes) == (0, 0, 0)


async def test_what_an_earlier_run_has_left_comes_first_and_in_order(bench: Bench) -> None:
    inflow = await bench.inflow(window=2)
    await bench.receive(inflow, *range(600))
    inflow.rest()
    await bench.journal.close()
    after = Bench(bench.path)
    try:
        other = await after.inflow(window=3)
        await after.receive(other, *range(600, 700))
        await until(lambda: len(after.function.given) == 3, "the first page")
        while after.function.entries or other.behind:
            await after.function.answer(100)
            await asyncio.sleep(0)
        assert after.function.given == [str(number) for number in range(700)]
    finally:
        after.inflows[0].rest()
        await after.journal.close()


async def test_its_successor_in_the_same_run_gives_what_it_has_left_once(bench: Bench) -> None:
    first = await bench.inflow(window=4)
    await bench.receive(first, *range(50))
    first.rest()
    late = first.receive(Event(b"x", id="50"))
    assert await asyncio.wait_for(late, PATIENCE_S) == ACCEPTED, "a trigger that stops may still hand over"
    assert bench.function.given == ["0", "1", "2", "3"]
    await bench.function.answer(4)
    await asyncio.wait_for(first.drained(), PATIENCE_S)
    second = await bench.inflow(window=100)
    await until(lambda: len(bench.function.given) == 51, "all of them")
    assert bench.function.given == [str(number) for number in range(51)]
    assert not first.in_flight
    await bench.function.answer(100)
    assert bench.allowance.events == 0
    assert not second.behind


async def test_memory_holds_a_part_of_the_backlog_alone(bench: Bench) -> None:
    inflow = await bench.inflow(window=1)
    for start in range(0, 6000, 1000):
        await bench.receive(inflow, *range(start, start + 1000))
    assert len(inflow._ready) <= module._READY
    for _ in range(20):
        inflow.look()
        await asyncio.sleep(0.005)
    assert len(inflow._ready) <= module._READY + PAGE, "however often somebody tells of new rows"


@pytest.mark.parametrize("code", sorted(STAYS))
async def test_what_the_function_has_not_seen_comes_again_in_its_turn(
    bench: Bench, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Backoff", lambda first_s, most_s: Backoff(0.001, 0.001))
    inflow = await bench.inflow(window=3)
    await bench.receive(inflow, *range(6))
    await bench.function.answer(3, failure(code, "no"))
    for _ in range(20):
        await until(lambda: bench.function.entries or not inflow.behind, "the function to be tried again")
        await bench.function.answer(1)
    assert bench.function.begun[:3] == ["0", "1", "2"]
    assert bench.function.begun[3:] == [str(number) for number in range(6)]
    assert bench.allowance.events == 0


async def test_a_function_with_less_room_than_the_window_is_not_asked_in_vain(bench: Bench) -> None:
    """An event that comes back is tried when another one has been answered, and not again and again until then."""
    bench.function.room = 5
    inflow = await bench.inflow(window=64)
    await bench.receive(inflow, *range(300))
    await turns(200)
    asked = len(bench.function.given)
    assert asked <= 64 + 5
    await turns(500)
    assert len(bench.function.given) == asked, "it is asked again without an answer in between"
    while inflow.behind:
        await bench.function.answer(1)
        await asyncio.sleep(0)
    assert bench.function.begun == [str(number) for number in range(300)]
    assert len(bench.function.given) - asked <= 300 * 2


async def test_a_function_that_takes_nothing_is_tried_after_a_pause(bench: Bench) -> None:
    bench.function.room = 0
    inflow = await bench.inflow(window=8)
    await bench.receive(inflow, *range(8))
    await turns(50)
    assert len(bench.function.given) == 8
    assert inflow._pause is not None
    bench.function.room = 8
    await until(lambda: bench.function.entries, "another try")
    assert bench.function.begun[0] == "0"


@pytest.mark.parametrize(("policy", "most"), [("block", 64), ("reject", 10), ("drop_oldest", 10), ("drop_newest", 10)])
async def test_no_more_are_given_than_a_queue_holds_that_refuses_or_drops(bench: Bench, policy: Any, most: int) -> None:
    inflow = await bench.inflow(window=64)
    inflow.keep_to(Queue(10, policy))
    await bench.receive(inflow, *range(100))
    assert len(bench.function.given) == most


def test_the_window_closes_at_once_and_opens_step_by_step() -> None:
    window = Window(8)
    window.came_back(3)
    assert window.now == 3
    for _ in range(3):
        window.handled()
    assert window.now == 4
    window.came_back(0)
    assert window.now == 1
    for _ in range(100):
        window.handled()
    assert window.now == 8
    window.came_back(20)
    assert window.now == 8


async def test_without_room_a_source_that_can_wait_waits_and_others_are_refused(bench: Bench) -> None:
    patient, hasty = await bench.inflow(window=1), await bench.inflow(window=1, patient=False, trigger="web")
    bench.allowance.limit_bytes = 1000
    await bench.receive(patient, 0, size=2000)
    waiting = patient.receive(Event(b"x", id="1"))
    gone = patient.receive(Event(b"x", id="gone"))
    gone.cancel()
    (refused,) = await bench.receive(hasty, 2)
    assert refused.code == "no_room"
    assert b"which is all [journal] events allows" in refused.body
    assert not waiting.done()
    assert len(bench.told) == 1
    await bench.function.answer()
    assert await asyncio.wait_for(waiting, PATIENCE_S) == ACCEPTED
    assert bench.told[-1] == ""
    assert "gone" not in bench.function.given


async def test_room_goes_to_another_source_each_time(bench: Bench) -> None:
    first, second = await bench.inflow(window=1), await bench.inflow(window=1, trigger="other")
    bench.allowance.limit_bytes = 500
    await bench.receive(first, 0, size=1000)
    futures = [[inflow.receive(Event(b"x" * 1000)) for _ in range(4)] for inflow in (first, second)]
    for _ in range(4):
        await bench.function.answer(1)
        await asyncio.sleep(0.05)
    assert [sum(future.done() for future in each) for each in futures] == [2, 2]


async def test_rest_lets_everybody_go(bench: Bench) -> None:
    inflow = await bench.inflow(window=1)
    bench.allowance.limit_bytes = 10
    await bench.receive(inflow, 0, size=100)
    held = inflow.receive(Event(b"x"))
    inflow.rest()
    assert (await asyncio.wait_for(held, PATIENCE_S)).code == "stopped"
    assert (await asyncio.wait_for(inflow.receive(Event(b"x")), PATIENCE_S)).code == "stopped"
    drained = asyncio.ensure_future(inflow.drained())
    await turns()
    assert not drained.done()
    await bench.function.answer()
    await asyncio.wait_for(drained, PATIENCE_S)
    assert inflow._let_in not in bench.allowance.on_room


async def test_a_journal_that_takes_nothing_any_more_fails_the_event_and_gives_its_room_back(bench: Bench) -> None:
    inflow = await bench.inflow()
    await bench.journal.close()
    (response,) = await bench.receive(inflow, 1)
    assert response.code == "no_room"
    assert bench.allowance.used_bytes == 0


async def test_one_that_cannot_be_written_leaves_no_gap(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    inflow = await bench.inflow(window=1)
    await bench.receive(inflow, 0, 1)
    taken = bench.journal.next_place("event", inflow._queue)
    await bench.journal.ask(lambda connection: connection.execute("INSERT INTO events VALUES (?, x'90', NULL, 0, 0)", (taken,)))
    first, second = await bench.receive(inflow, 2, 3)
    assert (first.code, second.code) == ("no_room", "")
    await bench.journal.ask(lambda connection: connection.execute("DELETE FROM events WHERE place = ?", (taken,)))
    while inflow.behind:
        await bench.function.answer()
        await asyncio.sleep(0.001)
    assert bench.function.begun == ["0", "1", "3"]


async def test_an_event_that_cannot_be_written_down_is_refused_and_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    inflow = await bench.inflow()
    (response,) = await asyncio.gather(inflow.receive(Event(topic="\ud800", id="odd")))
    assert response.code == "raised"
    assert "event odd is dropped: it cannot be written down" in caplog.text


async def test_a_damaged_row_is_dropped_with_a_note_and_the_others_run(bench: Bench) -> None:
    inflow = await bench.inflow(window=1)
    await bench.receive(inflow, *range(5))
    inflow.rest()
    await bench.function.answer()

    def spoil(connection: sqlite3.Connection) -> None:
        places = [place for (place,) in connection.execute("SELECT place FROM events ORDER BY place")]
        connection.execute("UPDATE events SET event = x'ffff' WHERE place = ?", (places[1],))
        connection.execute("UPDATE events SET event = 'text' WHERE place = ?", (places[2],))

    await bench.journal.ask(spoil)
    other = await bench.inflow(window=10)
    await until(lambda: len(bench.function.begun) == 3, "the sound ones")
    assert bench.function.begun == ["0", "1", "4"]
    assert "2 durable events of queue" in bench.journal.notes[0]
    assert await bench.rows() == 2
    assert other.in_flight == 2


async def test_a_page_that_cannot_be_read_is_asked_for_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    inflow = await bench.inflow(window=1)
    await bench.receive(inflow, *range(5))
    inflow.rest()
    await bench.function.answer()
    real, left = module.page, [2]

    def page(connection: sqlite3.Connection, after: int, end: int) -> Any:
        if left[0]:
            left[0] -= 1
            raise ValueError("not now")
        return real(connection, after, end)

    monkeypatch.setattr(module, "page", page)
    monkeypatch.setattr(module, "Backoff", lambda first_s, most_s: Backoff(0.001, 0.001))
    await bench.inflow(window=10)
    await until(lambda: len(bench.function.begun) == 5, "all of them")
    assert left == [0], "it was asked three times"
    assert sorted(bench.function.begun) == [str(number) for number in range(5)], "each once"


def test_an_allowance_that_was_lost_count_of_is_counted_anew() -> None:
    allowance, rooms = Allowance(100), []
    allowance.on_room.append(lambda: rooms.append(allowance.used_bytes))
    for _ in range(3):
        allowance.take(50)
    assert "3 durable events (150 bytes)" in allowance.reason()
    allowance.count([(1, 30), (0, 0)])
    assert (allowance.events, allowance.used_bytes, allowance.reason(), rooms) == (1, 30, "", [30])
    allowance.give_back(50)
    assert (allowance.events, allowance.used_bytes) == (0, 0), "never less than nothing"
