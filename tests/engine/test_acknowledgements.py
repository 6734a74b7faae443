"""`ensure_no_ack` holds an answer back until the function acknowledges its event, however the two come."""

from __future__ import annotations

import asyncio
from typing import Any

from edgehost.event import Event

HOLDS = """
    held = []
    async def handler(context, event):
        if event.id == "ack":
            for other in held:
                await context.platform.explicit_ack(other)
            held.clear()
            return "acked"
        if event.id == "die":
            import os
            os._exit(5)
        held.append(event)
        if event.id == "first":
            await context.platform.explicit_ack(event)
        response = context.Response(body=event.id)
        response.ensure_no_ack()
        return response
"""


async def test_a_held_answer_comes_when_its_event_is_acknowledged(engine: Any, answer: Any) -> None:
    function = await engine.function(HOLDS)
    held = [function.submit(Event(id=f"h{n}")) for n in range(5)]
    await engine.until(lambda: len(function.pool.workers[0].held) == 5)
    assert not any(future.done() for future in held)
    assert function.in_flight == 0, "a held answer takes no worker's place"
    assert (await answer(function.submit(Event(id="ack")))).body == b"acked"
    assert [(await answer(future)).body for future in held] == [b"h%d" % n for n in range(5)]
    assert (function.counters.handled, function.counters.failed) == (6, 0)


async def test_an_acknowledgement_before_the_answer_counts(engine: Any, answer: Any) -> None:
    function = await engine.function(HOLDS)
    assert (await answer(function.submit(Event(id="first")))).body == b"first"


async def test_held_answers_fail_with_their_worker(engine: Any, answer: Any) -> None:
    function = await engine.function(HOLDS)
    held = [function.submit(Event(id=f"h{n}")) for n in range(3)]
    await engine.until(lambda: len(function.pool.workers[0].held) == 3)
    died = function.submit(Event(id="die"))
    assert {(await answer(future)).code for future in [*held, died]} == {"worker_died"}
    assert function.counters.failed == 4


async def test_a_held_answer_has_no_deadline(engine: Any, answer: Any) -> None:
    function = await engine.function(HOLDS, timeout_s=0.2)
    held = function.submit(Event(id="h"))
    await asyncio.sleep(0.6)
    assert not held.done()
    await answer(function.submit(Event(id="ack")))
    assert (await answer(held)).body == b"h"


async def test_held_answers_of_a_function_that_stops_are_answered(engine: Any, answer: Any) -> None:
    function = await engine.function(HOLDS)
    held = function.submit(Event(id="h"))
    await engine.until(lambda: function.pool.workers[0].held)
    await function.drain("finish", 5)
    await function.close()
    assert (await answer(held)).code == "stopped"


async def test_a_caller_that_gives_a_held_event_up_costs_nothing(engine: Any, answer: Any) -> None:
    function = await engine.function(HOLDS)
    held = function.submit(Event(id="h"))
    await engine.until(lambda: function.pool.workers[0].held)
    held.cancel()
    assert (await answer(function.submit(Event(id="ack")))).code == ""
    await engine.until(lambda: not function.pool.workers[0].held)


async def test_a_large_event_can_be_held(engine: Any, answer: Any) -> None:
    function = await engine.function(HOLDS)
    held = [function.submit(Event(b"x" * 1_000_000, id=f"h{n}")) for n in range(40)]
    await engine.until(lambda: len(function.pool.workers[0].held) == 40)
    await answer(function.submit(Event(id="ack")))
    assert {(await answer(future)).code for future in held} == {""}
