"""The deadline of an event covers its wait and its work; a worker that overruns it is replaced, and nobody else pays for it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from edgehost.engine import kernel
from edgehost.event import Event
from edgehost.manifest.model import Queue

HANGS = """
    import time
    def handler(context, event):
        ran(event)
        if event.id.startswith("hang"):
            time.sleep(1000)
        if event.id.startswith("slow"):
            time.sleep(0.3)
        return event.id
"""
ASYNC_HANGS = """
    import asyncio, time
    async def handler(context, event):
        ran(event)
        if event.id == "hang":
            await asyncio.sleep(1000)
        if event.id == "stubborn":
            while True:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    pass
        if event.id == "block":
            time.sleep(1000)
        return event.id
"""


async def test_an_event_that_runs_too_long_times_out_and_its_worker_is_replaced(engine: Any, answer: Any, lines: Any) -> None:
    function = await engine.function(HANGS, timeout_s=0.3)
    before = function.pool.workers[0].pid
    began = time.monotonic()
    response = await answer(function.submit(Event(id="hang")))
    assert (response.code, response.status) == ("timeout", 408)
    assert time.monotonic() - began >= 0.3
    assert (await answer(function.submit(Event(id="ok")))).body == b"ok"
    assert function.pool.workers[0].pid != before
    told = [line for line in lines() if "ran past its deadline" in line.getMessage()]
    assert [line.event_id for line in told] == ["hang"]
    assert (function.counters.handled, function.counters.failed) == (1, 1)


async def test_events_that_wait_behind_one_that_hangs_go_to_other_workers(engine: Any, answer: Any) -> None:
    function = await engine.function(HANGS, timeout_s=5, workers=2)
    await asyncio.gather(*(answer(function.submit(Event(id=f"w{n}"))) for n in range(100)))
    hanging = function.submit(Event(id="hang"))
    others = [function.submit(Event(id=f"e{n}")) for n in range(64)]
    assert [(await answer(future)).body.decode() for future in others] == [f"e{n}" for n in range(64)]
    assert not hanging.done()
    assert (await answer(hanging)).code == "timeout"
    assert set(engine.runs().values()) == {1}


@pytest.mark.parametrize("barrier", [True, False])
async def test_events_in_a_worker_that_is_killed_are_handled_once_by_another(
    engine: Any, answer: Any, monkeypatch: pytest.MonkeyPatch, barrier: bool
) -> None:
    """Also on a kernel without memory barriers, where nothing can be taken back before the worker ends."""
    if not barrier:
        monkeypatch.setattr(kernel, "barrier", lambda: False)
    function = await engine.function(HANGS, timeout_s=3)
    await asyncio.gather(*(answer(function.submit(Event(id=f"w{n}"))) for n in range(200)))
    hanging = function.submit(Event(id="hang"))
    await asyncio.sleep(1.5)
    others = [function.submit(Event(id=f"e{n}")) for n in range(50)]
    assert (await answer(hanging)).code == "timeout"
    assert [(await answer(future)).body.decode() for future in others] == [f"e{n}" for n in range(50)]
    assert set(engine.runs().values()) == {1}


async def test_an_event_that_waits_too_long_is_not_begun(engine: Any, answer: Any) -> None:
    function = await engine.function(HANGS, timeout_s=0.5, queue=Queue(size=1000))
    hanging = function.submit(Event(id="hang"))
    waiting = [function.submit(Event(id=f"e{n}")) for n in range(100)]
    assert (await answer(hanging)).code == "timeout"
    responses = [await answer(future) for future in waiting]
    assert {(response.code, response.status) for response in responses} == {("no_worker", 503)}
    await engine.whole(function)
    assert set(engine.runs()) == {"hang"}
    assert function.counters.failed == 101


async def test_a_waiting_event_whose_caller_has_left_is_not_begun(engine: Any, answer: Any) -> None:
    function = await engine.function(HANGS, timeout_s=20)
    slow = function.submit(Event(id="slow"))
    await engine.until(lambda: function.pool.workers[0].channel.progress().begun)
    while not function.queued:
        function.submit(Event(id="room"))
    left = [function.submit(Event(id=f"left{n}")) for n in range(10)]
    for future in left:
        future.cancel()
    await answer(slow)
    await engine.whole(function)
    assert set(engine.runs()) == {"slow", "room"}


async def test_an_answer_made_in_time_counts_though_a_later_event_hangs(engine: Any, answer: Any) -> None:
    """The quick event's answer lies unsent in the worker when the slow one begins: the agent reads it there, at once."""
    function = await engine.function(HANGS, timeout_s=3)
    await asyncio.gather(*(answer(function.submit(Event(id=f"w{n}"))) for n in range(200)))
    quick, hanging = function.submit(Event(b"x", id="quick")), function.submit(Event(id="hang"))
    began = time.monotonic()
    assert (await answer(quick)).body == b"quick"
    assert time.monotonic() - began < 2
    assert not hanging.done()
    assert (await answer(hanging)).code == "timeout"


async def test_an_async_event_is_cancelled_at_its_deadline_and_its_worker_stays(engine: Any, answer: Any) -> None:
    function = await engine.function(ASYNC_HANGS, timeout_s=0.5, concurrency=8)
    pid = function.pool.workers[0].pid
    hanging = [function.submit(Event(id="hang")) for _ in range(3)]
    assert (await answer(function.submit(Event(id="e")))).body == b"e"
    assert {(await answer(future)).code for future in hanging} == {"timeout"}
    assert (await answer(function.submit(Event(id="e2")))).body == b"e2"
    assert function.pool.workers[0].pid == pid


@pytest.mark.parametrize("how", ["stubborn", "block"])
async def test_an_async_event_that_cannot_be_cancelled_ends_its_worker(engine: Any, answer: Any, how: str) -> None:
    function = await engine.function(ASYNC_HANGS, timeout_s=0.5, concurrency=4)
    pid = function.pool.workers[0].pid
    assert (await answer(function.submit(Event(id=how)))).code == "timeout"
    assert (await answer(function.submit(Event(id="e")))).body == b"e"
    assert function.pool.workers[0].pid != pid


async def test_events_behind_a_blocked_loop_are_handled_once(engine: Any, answer: Any) -> None:
    function = await engine.function(ASYNC_HANGS, timeout_s=4, concurrency=50, workers=2)
    blocked = function.submit(Event(id="block"))
    others = [function.submit(Event(id=f"e{n}")) for n in range(90)]
    answers = [await answer(future) for future in others]
    await answer(blocked)
    assert {response.code for response in answers} <= {"", "worker_died"}
    died = sum(response.code == "worker_died" for response in answers)
    assert function.counters.handled == 90 - died
    assert set(engine.runs().values()) == {1}


async def test_the_handler_knows_its_deadline(engine: Any, answer: Any) -> None:
    function = await engine.function(
        "import time\ndef handler(context, event):\n    return str(context.deadline - time.monotonic())", timeout_s=60
    )
    assert 30 < float((await answer(function.submit(Event()))).body) <= 60
