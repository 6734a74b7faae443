"""An old version ends by its policy: nothing it has begun is cut off, and nothing that waited is lost in silence."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from edgehost.event import Event

GATED = """
    import os, time
    def init_context(context):
        context.platform.set_drain_callback(lambda: print("drain callback"))
        context.platform.set_termination_callback(lambda: print("termination callback"))
    def handler(context, event):
        ran(event)
        while not os.path.exists("open"):
            time.sleep(0.005)
        if event.id == "die":
            os._exit(1)
        return event.id + " " + context.function_name
"""


async def busy(engine: Any, events: list[str]) -> tuple[Any, list[asyncio.Future[Any]]]:
    """A function whose worker holds events and whose queue holds the rest."""
    function = await engine.function(GATED)
    function.pool.workers[0].credit = 2
    futures = [function.submit(Event(id=each)) for each in events]
    await engine.until(lambda: function.pool.workers[0].channel.progress().begun)
    assert (function.in_flight, function.queued) == (2, len(events) - 2)
    return function, futures


def open_gate(engine: Any, name: str = "f") -> None:
    (engine.folder / name / "open").touch()


def told(lines: Any, text: str) -> int:
    return sum(line.getMessage() == text for line in lines())


async def test_finish_handles_all_that_waits_and_takes_no_more(engine: Any, answer: Any, lines: Any) -> None:
    function, futures = await busy(engine, ["a", "b", "c", "d"])
    draining = asyncio.create_task(function.drain("finish", 20))
    await asyncio.sleep(0.05)
    assert not draining.done()
    late = await answer(function.submit(Event()))
    assert (late.code, late.status) == ("stopped", 503)
    open_gate(engine)
    await draining
    assert [(await answer(future)).body for future in futures] == [b"a f", b"b f", b"c f", b"d f"]
    assert told(lines, "drain callback") == 1
    await function.close()
    assert told(lines, "termination callback") == 1


async def test_inflight_handles_what_workers_hold_and_fails_the_rest(engine: Any, answer: Any) -> None:
    function, futures = await busy(engine, ["a", "b", "c", "d"])
    draining = asyncio.create_task(function.drain("inflight", 20))
    assert [(await answer(future)).code for future in futures[2:]] == ["stopped"] * 2
    open_gate(engine)
    await draining
    assert [(await answer(future)).code for future in futures[:2]] == ["", ""]
    await function.close()
    assert set(engine.runs()) == {"a", "b"}


async def test_handover_gives_what_waits_to_the_next_version_in_order(engine: Any, answer: Any) -> None:
    function, futures = await busy(engine, ["a", "b", "c", "d", "e"])
    successor = await engine.function(GATED, "next")
    open_gate(engine, "next")
    done: list[str] = []
    for future in futures:
        future.add_done_callback(lambda future: done.append(future.result().body.decode()))
    draining = asyncio.create_task(function.drain("handover", 20, successor))
    await asyncio.sleep(0)
    newer = successor.submit(Event(id="newer"))
    assert (await answer(newer)).body == b"newer next"
    assert done == ["c next", "d next", "e next"]
    open_gate(engine)
    await draining
    assert done[3:] == ["a f", "b f"]
    await function.close()


async def test_deadlines_move_over_with_the_events(engine: Any, answer: Any) -> None:
    function = await engine.function(GATED, timeout_s=2)
    successor = await engine.function(GATED, "next", timeout_s=60)
    long = successor.submit(Event(id="b"))
    function.pool.workers[0].credit = successor.pool.workers[0].credit = 1
    first = function.submit(Event(id="a"))
    await engine.until(lambda: function.pool.workers[0].channel.progress().begun)
    waiting = function.submit(Event(id="w"))
    draining = asyncio.create_task(function.drain("handover", 20, successor))
    assert (await answer(waiting)).code == "no_worker"
    for name in ("f", "next"):
        open_gate(engine, name)
    assert (await answer(first)).code == "timeout"
    await asyncio.gather(answer(long), draining)
    await function.close()


@pytest.mark.parametrize("policy", ["finish", "inflight"])
async def test_a_worker_that_dies_meanwhile_is_replaced_and_the_drain_ends(engine: Any, answer: Any, policy: str) -> None:
    function, futures = await busy(engine, ["die", "b", "c"])
    draining = asyncio.create_task(function.drain(policy, 20))
    await asyncio.sleep(0.02)
    open_gate(engine)
    await asyncio.wait_for(draining, 20)
    assert [(await answer(future)).code for future in futures] == ["worker_died", "", "" if policy == "finish" else "stopped"]
    await function.close()
    assert set(engine.runs().values()) == {1}


async def test_what_is_unfinished_after_the_drain_timeout_fails(engine: Any, answer: Any, lines: Any) -> None:
    function, futures = await busy(engine, ["a", "b", "c"])
    await function.drain("finish", 0.1)
    await function.close(0.1)
    assert {(await answer(future)).code for future in futures} == {"stopped"}
    assert any("3 events were unfinished" in line.getMessage() for line in lines())


async def test_a_drain_callback_that_hangs_is_left_behind(engine: Any, lines: Any) -> None:
    function = await engine.function("""
        import time
        def init_context(context):
            context.platform.set_drain_callback(lambda: time.sleep(1000))
        def handler(context, event):
            pass
    """)
    began = time.monotonic()
    await function.drain("finish", 0.2)
    await function.close(0.1)
    assert time.monotonic() - began < 20
    assert any("drain callback" in line.getMessage() for line in lines())


@pytest.mark.parametrize("callback", ["def", "async def"])
async def test_callbacks_that_raise_are_logged_and_end_nothing(engine: Any, lines: Any, callback: str) -> None:
    function = await engine.function(f"""
        {callback} odd():
            raise ValueError("odd callback")
        def init_context(context):
            context.platform.set_drain_callback(odd)
            context.platform.set_termination_callback(odd)
        async def handler(context, event):
            pass
    """)
    await function.drain("finish", 10)
    assert function.pool.ready == 1
    await function.close()
    assert sum("odd callback" in line.getMessage() for line in lines()) == 2


async def test_a_stream_is_read_to_its_end_before_a_drain_is_over(engine: Any, answer: Any) -> None:
    function = await engine.function("def handler(context, event):\n    for n in range(100):\n        yield str(n)")
    response = await answer(function.submit(Event()))
    draining = asyncio.create_task(function.drain("finish", 20))
    await asyncio.sleep(0.05)
    assert not draining.done()
    assert len([chunk async for chunk in response.chunks]) == 99
    await asyncio.wait_for(draining, 20)
    await function.close()


async def test_closing_a_function_that_is_still_starting_leaves_nothing(engine: Any) -> None:
    function = engine.build("import time\ntime.sleep(1000)\nhandler = print", workers=3)
    starting = asyncio.create_task(function.start())
    await engine.until(lambda: len(function.pool.workers) >= 1)
    await function.close(0.1)
    with pytest.raises(Exception, match=r"stopped|ended"):
        await starting


@pytest.mark.parametrize("turns", range(12))
async def test_closing_at_any_moment_of_a_start_leaves_nothing(engine: Any, turns: int) -> None:
    function = engine.build("handler = lambda context, event: ''", workers=4)
    starting = asyncio.create_task(function.start())
    future = function.submit(Event())
    for _ in range(turns):
        await asyncio.sleep(0.001 * turns)
    await function.close(1)
    await asyncio.gather(starting, return_exceptions=True)
    assert future.done()


async def test_closing_twice_is_closing_once(engine: Any) -> None:
    function = await engine.function("handler = print")
    await asyncio.gather(function.close(), function.close())
    await function.close()
    assert not function.pool.workers
