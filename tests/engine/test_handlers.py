"""Events reach workers in order, spread over them, and as many at once as the function allows and no more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgehost.event import Event

FLAVOURS = {"sync": "def handler", "async": "async def handler"}


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_one_worker_handles_events_in_the_order_they_came(engine: Any, answer: Any, flavour: str) -> None:
    function = await engine.function(f"""
        seen = []
        {FLAVOURS[flavour]}(context, event):
            seen.append(event.id)
            return seen if event.id == "last" else ""
    """)
    ids = [str(n) for n in range(500)] + ["last"]
    *_, last = await asyncio.gather(*(answer(function.submit(Event(id=each))) for each in ids))
    assert last.body.decode() == str(ids).replace("'", '"')


async def test_slow_events_use_every_worker(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        import os, time
        def handler(context, event):
            time.sleep(0.02)
            return str(os.getpid())
        """,
        workers=4,
    )
    await asyncio.gather(*(answer(function.submit(Event())) for _ in range(4)))
    answers = await asyncio.gather(*(answer(function.submit(Event())) for _ in range(40)))
    assert {int(response.body) for response in answers} == {worker.pid for worker in function.pool.workers}


async def test_workers_have_ids_from_zero(engine: Any) -> None:
    function = await engine.function("handler = lambda context, event: ''", workers=3)
    assert sorted(worker.worker_id for worker in function.pool.workers) == [0, 1, 2]


AT_ONCE = """
    import asyncio
    now = most = 0
    async def handler(context, event):
        global now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1
        return str(most)
"""


@pytest.mark.parametrize("concurrency", [1, 2, 8, 200])
async def test_an_async_worker_holds_as_many_events_as_it_may(engine: Any, answer: Any, concurrency: int) -> None:
    function = await engine.function(AT_ONCE, concurrency=concurrency)
    answers = await asyncio.gather(*(answer(function.submit(Event())) for _ in range(300)))
    assert max(int(response.body) for response in answers) == concurrency


async def test_events_of_one_async_worker_keep_their_own_ids_and_answers(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        import asyncio
        async def handler(context, event):
            await asyncio.sleep(0.001 * (int(event.id) % 7))
            return event.id
        """,
        concurrency=50,
    )
    answers = await asyncio.gather(*(answer(function.submit(Event(id=str(n)))) for n in range(300)))
    assert [int(response.body) for response in answers] == list(range(300))


async def test_a_sync_handler_runs_without_a_loop(engine: Any, answer: Any) -> None:
    function = await engine.function("""
        import asyncio
        async def later():
            return "ran"
        def handler(context, event):
            return asyncio.run(later())
    """)
    assert (await answer(function.submit(Event()))).body == b"ran"


async def test_on_loop_gives_a_sync_handler_its_loop(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        import asyncio
        def handler(context, event):
            return str(asyncio.get_event_loop().is_running())
        """,
        on_loop=True,
    )
    assert (await answer(function.submit(Event()))).body == b"True"


RAISES = {
    "sync": "def handler(context, event):\n    raise {error}",
    "async": "async def handler(context, event):\n    raise {error}",
}


@pytest.mark.parametrize("flavour", RAISES)
@pytest.mark.parametrize("error", ["ValueError('odd')", "KeyboardInterrupt()", "GeneratorExit()", "StopIteration(3)"])
async def test_a_handler_that_raises_fails_its_event_and_keeps_its_worker(
    engine: Any, answer: Any, flavour: str, error: str
) -> None:
    function = await engine.function(RAISES[flavour].format(error=error))
    pid = function.pool.workers[0].pid
    response = await answer(function.submit(Event()))
    assert (response.code, response.status) == ("raised", 500)
    assert (await answer(function.submit(Event()))).code == "raised"
    assert function.pool.workers[0].pid == pid
    assert function.counters.failed == 2


@pytest.mark.parametrize("flavour", FLAVOURS)
async def test_an_answer_json_cannot_hold_fails_its_event_alone(engine: Any, answer: Any, flavour: str) -> None:
    function = await engine.function(f"""
        {FLAVOURS[flavour]}(context, event):
            circle = []
            circle.append(circle)
            return circle if event.id == "bad" else "good"
    """)
    bad, good = function.submit(Event(id="bad")), function.submit(Event(id="good"))
    assert (await answer(bad)).code == "raised"
    assert (await answer(good)).body == b"good"


async def test_a_caller_that_goes_away_costs_nothing(engine: Any, answer: Any) -> None:
    function = await engine.function("handler = lambda context, event: event.body")
    futures = [function.submit(Event(b"x" * 70_000)) for _ in range(200)]
    for future in futures[::2]:
        future.cancel()
    assert {(await answer(future)).code for future in futures[1::2]} == {""}


async def test_counters_count_every_event_once(engine: Any, answer: Any) -> None:
    function = await engine.function("""
        def handler(context, event):
            if event.id == "bad":
                raise ValueError("bad")
    """)
    await asyncio.gather(*(answer(function.submit(Event(id=each))) for each in ["good"] * 30 + ["bad"] * 12))
    assert (function.counters.handled, function.counters.failed) == (30, 12)
    assert len(function.counters.latencies) == 42
    assert function.last_error == "bad"
