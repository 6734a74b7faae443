"""A batch is one call of the handler and one answer for each of its events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgehost.event import Event

FLAVOURS = {"sync": "def handler", "async": "async def handler"}
flavours = pytest.mark.parametrize("flavour", FLAVOURS)


def events(count: int, size: int = 10) -> list[Event]:
    return [Event(bytes([n % 256]) * size, id=str(n)) for n in range(count)]


@flavours
async def test_every_event_of_a_batch_gets_the_answer_with_its_id(engine: Any, answer: Any, flavour: str) -> None:
    function = await engine.function(f"""
        {FLAVOURS[flavour]}(context, events):
            assert isinstance(events, list)
            return [context.Response(body=event.id + "!", event_id=event.id) for event in reversed(events)]
    """)
    responses = await answer(function.submit(events(10)))
    assert [response.body for response in responses] == [b"%d!" % n for n in range(10)]
    assert function.counters.handled == 10


@flavours
async def test_a_batch_far_longer_than_any_buffer_goes_through(engine: Any, answer: Any, flavour: str) -> None:
    function = await engine.function(f"""
        {FLAVOURS[flavour]}(context, events):
            return [context.Response(body=event.body, event_id=event.id) for event in events]
    """)
    batch = events(60, 1 << 20)
    responses = await answer(function.submit(batch))
    assert [response.body for response in responses] == [event.body for event in batch]


@flavours
@pytest.mark.parametrize("error", ["ValueError('odd')", "KeyboardInterrupt('odd')"])
async def test_a_raise_fails_every_event_of_the_batch(engine: Any, answer: Any, flavour: str, error: str) -> None:
    function = await engine.function(f"{FLAVOURS[flavour]}(context, events):\n    raise {error}")
    responses = await answer(function.submit(events(3)))
    assert [(response.code, response.body, response.event_id) for response in responses] == [
        ("raised", b"odd", str(n)) for n in range(3)
    ]
    assert function.counters.failed == 3


@flavours
@pytest.mark.parametrize("end", ["os._exit(2)", "sys.exit(2)"])
async def test_a_worker_that_ends_in_a_batch_fails_all_of_it_and_no_other(
    engine: Any, answer: Any, flavour: str, end: str
) -> None:
    function = await engine.function(f"""
        import os, sys
        {FLAVOURS[flavour]}(context, events):
            for event in events:
                ran(event)
            if events[0].id == "0":
                {end}
            return [context.Response(body=event.id, event_id=event.id) for event in events]
    """)
    bad = function.submit(events(3))
    good = [function.submit([Event(id=f"g{n}"), Event(id=f"h{n}")]) for n in range(20)]
    assert [response.code for response in await answer(bad)] == ["worker_died"] * 3
    for n, future in enumerate(good):
        assert [response.body.decode() for response in await answer(future)] == [f"g{n}", f"h{n}"]
    assert set(engine.runs().values()) == {1}
    assert (function.counters.handled, function.counters.failed) == (40, 3)


@flavours
async def test_a_batch_past_its_deadline_fails_with_every_member(engine: Any, answer: Any, flavour: str) -> None:
    function = await engine.function(
        f"""
        import time, asyncio
        {FLAVOURS[flavour]}(context, events):
            {"time.sleep(1000)" if flavour == "sync" else "await asyncio.sleep(1000)"}
        """,
        timeout_s=0.2,
    )
    running = function.submit(events(2))
    await engine.until(lambda: function.in_flight)
    waiting = function.submit(events(2))
    assert [response.code for response in await answer(running)] == ["timeout"] * 2
    assert {response.code for response in await answer(waiting)} <= {"no_worker", "timeout"}


async def test_a_caller_that_gives_a_batch_up_costs_nothing(engine: Any, answer: Any) -> None:
    function = await engine.function("handler = lambda context, events: []")
    futures = [function.submit(events(5)) for _ in range(20)]
    for future in futures[::2]:
        future.cancel()
    answers = await asyncio.gather(*(answer(future) for future in futures[1::2]))
    assert [len(each) for each in answers] == [5] * 10
    await engine.until(lambda: not function.in_flight and not function.queued)
