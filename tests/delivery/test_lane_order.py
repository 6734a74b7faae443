"""A lane's promise, whatever happens in whatever order: what goes to one place arrives in its order, and nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehost.backoff import Backoff
from edgehost.delivery import backlog, direct
from edgehost.delivery.rows import Change
from edgehost.errors import AwayError
from edgehost.parcel import Parcel
from tests.delivery.receiver import Agent, Output, Receiver, at_rest, say

EVENTS = ["away", "back", "busy", "written", "sleep", "upgrade", "full", "stop", "kill"]
STEPS = st.one_of(
    st.tuples(st.sampled_from(["say", "row"]), st.sampled_from("ab"), st.integers(1, 4)),
    st.tuples(st.sampled_from(["answer", "turns", "evict"]), st.just(""), st.integers(1, 9)),
    st.tuples(st.sampled_from(EVENTS), st.just(""), st.just(0)),
)


class Story:
    """One run of steps. `safe` is what somebody was told is safe."""

    def __init__(self, folder: Path, numbered: bool, at_once: bool, window: int) -> None:
        self.place = folder
        self.kind: dict[str, Any] = {"numbered": numbered, "at_once": at_once, "window": window}
        self.receiver = Receiver()
        self.said: dict[str, list[str]] = defaultdict(list)
        self.safe: set[str] = set()
        self.dropped = 0
        self.evictions: list[asyncio.Task[int]] = []
        self.runs = 0
        self.exact = True

    async def begin(self) -> None:
        self.agent = Agent(self.place)
        self.output = Output(self.receiver, **self.kind)
        self.lane = await self.agent.lane(self.output)

    async def step(self, what: str, to: str, count: int) -> None:
        await getattr(self, what)(to, count)

    def _next(self, to: str) -> str:
        self.said[to].append(f"{to}{len(self.said[to]):03}")
        return self.said[to][-1]

    async def say(self, to: str, count: int) -> None:
        for _ in range(count):
            body = self._next(to)
            wait = say(self.lane, to, body)
            if wait is None:
                self.safe.add(body)
            else:
                wait.add_done_callback(lambda done, body=body: self._told(body, done))

    def _told(self, body: str, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self.safe.add(body)

    async def row(self, to: str, count: int) -> None:
        agent = self.agent
        bodies = [self._next(to) for _ in range(count)]
        rows = await agent.outbox.rows([(self.lane, Parcel(to, body.encode())) for body in bodies])

        def then(_result: None, error: BaseException | None) -> None:
            if error is None:
                agent.outbox.stored(rows)
                self.safe.update(bodies)
            else:
                agent.outbox.never_stored(rows)

        agent.journal.commit(Change(stored=tuple(row for _, row in rows)), then)

    async def answer(self, _to: str, count: int) -> None:
        self.output.answer(count)

    async def turns(self, _to: str, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def away(self, _to: str, _count: int) -> None:
        self.output.see(False)

    async def back(self, _to: str, _count: int) -> None:
        self.output.see(True)

    async def busy(self, _to: str, _count: int) -> None:
        self.output.refuse(AwayError("busy"))

    async def full(self, _to: str, _count: int) -> None:
        self.output.at_most = len(self.output.sent) + 2

    async def written(self, _to: str, _count: int) -> None:
        await self.agent.written()

    async def sleep(self, _to: str, _count: int) -> None:
        await asyncio.sleep(0.025)

    async def upgrade(self, _to: str, _count: int) -> None:
        """A new version comes up on the same session, the old one ends."""
        old, self.output = self.output, Output(self.receiver, **self.kind)
        self.output.sent, self.output.begun = old.sent, old.begun
        self.lane.attach(self.output, self.lane.rules)
        self.lane.detach(old)

    async def evict(self, _to: str, count: int) -> None:
        """Some go, on purpose, while everything else goes on."""
        self.evictions.append(asyncio.create_task(self.lane.evict(count * 5, "by this test")))

    async def _ended(self, agent: Agent) -> None:
        """What this run has dropped is known when it is over."""
        await asyncio.gather(*self.evictions, return_exceptions=True)
        self.dropped += sum(lane.counts["dropped"] for lane in agent.outbox.lanes.values())
        self.evictions.clear()

    async def stop(self, _to: str, _count: int) -> None:
        """An orderly end: what the session still holds then comes back."""
        self.lane.detach(self.output)
        self.agent.outbox.close()
        await asyncio.sleep(0)
        self.output.answer(2)
        self.output.refuse(AwayError("closed"))
        await asyncio.sleep(0)
        await self._ended(self.agent)
        await self.agent.journal.close()
        await self.begin()

    async def kill(self, _to: str, _count: int) -> None:
        """Nothing runs any more: what is on disk now is all there is. What had left may have arrived."""
        self.runs += 1
        folder = self.place.parent / f"run{self.runs}"
        shutil.copytree(self.place, folder)
        for one in list(self.output.sent)[:2]:
            if self.receiver.here:
                self.receiver.take(one.parcel, one.late, one.slip.number if one.slip is not None else 0)
        self.exact = self.exact and not self.output.at_once and self.kind["numbered"]
        dead, safe, open_numbers = self.agent, set(self.safe), dict(self.receiver.open)
        self.output.refuse(AwayError("dead"))
        self.lane.detach(self.output)
        await self._ended(dead)
        await dead.close()
        self.safe, self.receiver.open = safe, open_numbers
        self.place = folder
        await self.begin()

    async def end(self) -> None:
        """All is well again: everything that is safe arrives."""
        self.output.see(True)
        self.output.at_most = 1 << 30
        for _ in range(2000):
            self.output.answer()
            await asyncio.sleep(0.001)
            if not self.lane.count and not self.output.sent and not self.agent.outbox._tasks:
                break
        await asyncio.gather(*self.evictions)
        await self.agent.written()
        at_rest(self.agent)
        assert await self.agent.rows() == 0
        await self._ended(self.agent)
        await self.agent.close()
        got = self.receiver.got
        lost = self.safe - set(got)
        assert len(lost) <= self.dropped, f"lost: {sorted(lost)}"
        for to in self.said:
            firsts = list(dict.fromkeys(body for body in got if body[0] == to))
            assert firsts == sorted(firsts), f"out of order: {firsts}"
        if self.kind["numbered"] and self.exact:
            assert len(got) == len(set(got)), "twice"


@pytest.mark.parametrize("kind", ["plain", "single", "numbered", "at_once"])
def test_whatever_happens_order_is_kept_and_nothing_is_lost(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SPILL_S", 0.01)
    monkeypatch.setattr(backlog, "LATE_S", 0.02)
    monkeypatch.setattr(backlog, "Backoff", lambda _first, _most: Backoff(0.001, 0.002))
    monkeypatch.setattr(backlog, "_READY", 6)
    monkeypatch.setattr(backlog, "PAGE", 4)
    monkeypatch.setattr("edgehost.delivery.item.PAGE", 4)

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, min_size=3, max_size=25))
    def run(steps: list[tuple[str, str, int]]) -> None:
        trouble: list[Any] = []

        async def story() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _loop, context: trouble.append(context))
            with tempfile.TemporaryDirectory() as folder:
                one = Story(Path(folder) / "run0", kind == "numbered", kind == "at_once", 1 if kind == "single" else 3)
                await one.begin()
                for step in steps:
                    await one.step(*step)
                await one.end()

        asyncio.run(story())
        gc.collect()
        assert not trouble

    run()
