"""The poller: its beat, its patience, and what it tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from edgehost.errors import StateError, TriggerError
from edgehost.polling import Poller, TryLaterError
from edgehost.polling.poller import First

DEADLINE_S = 20


class Source:
    """Does at each read what the test has put in line; afterwards every read works."""

    def __init__(self, *acts: Any) -> None:
        self.acts = list(acts)
        self.at: list[float] = []
        self.under_way = 0

    async def read(self) -> str:
        assert self.under_way == 0, "two reads at once"
        self.under_way += 1
        self.at.append(time.monotonic())
        try:
            act = self.acts.pop(0) if self.acts else ""
            if isinstance(act, Exception):
                raise act
            return act if isinstance(act, str) else await act
        finally:
            self.under_way -= 1


@asynccontextmanager
async def polling(source: Source, told: Any, interval_s: float = 0.02, first: First = "now") -> AsyncIterator[None]:
    poller = Poller(interval_s, first, source.read, told)
    poller.start("poll test")
    try:
        yield
    finally:
        await poller.stop()
    assert not any(task.get_name() == "poll test" for task in asyncio.all_tasks())


async def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


async def test_the_first_read_is_at_once_and_each_other_a_beat_later(told: Any) -> None:
    source = Source()
    begun = time.monotonic()
    async with polling(source, told, interval_s=0.05):
        await until(lambda: len(source.at) >= 4)
    assert source.at[0] - begun < 1
    assert source.at[3] - source.at[0] >= 0.14
    assert told.reports == [("running", "")] and told.counts["reads"] >= 3


async def test_a_random_first_read_lies_within_the_interval(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.5)
    source, begun = Source(), time.monotonic()
    async with polling(source, told, interval_s=0.2, first="random"):
        await until(lambda: len(source.at) >= 2)
    assert source.at[0] - begun >= 0.1 and source.at[1] - begun >= 0.3


async def test_a_slow_read_leaves_beats_out_and_counts_them(told: Any) -> None:
    source = Source(asyncio.sleep(0.2, ""))
    async with polling(source, told, interval_s=0.02):
        await until(lambda: len(source.at) >= 3)
    assert told.counts["skipped"] >= 8


async def test_trouble_with_a_part_is_told_once_and_taken_back(told: Any) -> None:
    source = Source("one register is gone", "one register is gone", "")
    async with polling(source, told):
        await until(lambda: told.counts["reads"] >= 4)
    assert told.reports == [("degraded", "one register is gone"), ("running", "")]


async def test_a_read_that_fails_is_tried_again_and_leaves_no_beat_behind(told: Any) -> None:
    source = Source("", TriggerError("no answer"), TriggerError("no answer"))
    async with polling(source, told, interval_s=0.05):
        await until(lambda: told.counts["reads"] >= 2)
    assert told.reports == [("running", ""), ("degraded", "no answer"), ("running", "")]
    assert told.counts["failed_reads"] == 2 and told.counts["skipped"] == 0


async def test_a_source_may_say_when(told: Any) -> None:
    source = Source(TryLaterError("busy", 0.3))
    async with polling(source, told):
        await until(lambda: told.counts["reads"] >= 1)
    assert source.at[1] - source.at[0] >= 0.29
    assert told.reports[0] == ("degraded", "busy; read again in 0.3 s")


@pytest.mark.parametrize(("interval_s", "least_s"), [(0.1, 0.1), (60.0, 1.0)])
async def test_a_source_that_says_now_for_ever_is_not_asked_in_a_circle(told: Any, interval_s: float, least_s: float) -> None:
    source = Source(*(TryLaterError("busy", 0.0) for _ in range(1000)))
    async with polling(source, told, interval_s):
        await until(lambda: len(source.at) >= 2)
    assert len(source.at) == 2 and source.at[1] - source.at[0] >= 0.99 * least_s
    assert told.reports[0] == ("degraded", f"busy; read again in {least_s:g} s")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (StateError("the disk is full"), "the disk is full"),
        (ZeroDivisionError("by zero"), "the read broke off: ZeroDivisionError: by zero"),
    ],
)
async def test_whatever_a_source_raises_reading_goes_on(told: Any, error: Exception, message: str) -> None:
    source = Source(error)
    async with polling(source, told):
        await until(lambda: told.counts["reads"] >= 1)
    assert told.reports == [("degraded", message), ("running", "")]


async def test_no_step_of_the_wall_clock_moves_a_beat(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    async with polling(source, told):
        for wall in (0.0, 4e9, -1e9):
            monkeypatch.setattr(time, "time", lambda wall=wall: wall)
            reads = len(source.at)
            await until(lambda reads=reads: len(source.at) >= reads + 3)
    gaps = [later - earlier for earlier, later in zip(source.at, source.at[1:], strict=False)]
    assert min(gaps) > 0.001 and len(source.at) < 2 + (source.at[-1] - source.at[0]) / 0.02


async def test_a_forgotten_cancellation_is_no_reason_to_go_on(told: Any) -> None:
    """What asyncio.wait_for does before Python 3.12 if its result comes in the same turn."""

    async def forget() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(DEADLINE_S)
        return ""

    source = Source(forget())
    async with polling(source, told):
        await until(lambda: source.under_way)
    assert source.under_way == 0


async def test_no_read_begins_after_the_end(told: Any) -> None:
    blocked: Awaitable[str] = asyncio.get_running_loop().create_future()
    source = Source(blocked)
    async with polling(source, told):
        await until(lambda: source.under_way)
    assert source.under_way == 0 and len(source.at) == 1
