"""A queue has a size, and a policy for the event that is one too many."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgehost.event import Event
from edgehost.manifest.model import Queue

GATED = """
    import os, time
    def handler(context, event):
        while not os.path.exists("open"):
            time.sleep(0.005)
        return event.id
"""


async def held_up(engine: Any, policy: str, size: int = 3) -> tuple[Any, list[asyncio.Future[Any]]]:
    """A function whose one worker is busy until `open_gate`, after one event has shown it that events are slow."""
    function = await engine.function(GATED, queue=Queue(size=size, policy=policy))
    futures = [function.submit(Event(id="first"))]
    await engine.until(lambda: function.pool.workers[0].channel.progress().begun)
    while not function.queued:  # what the worker may hold beside it
        futures.append(function.submit(Event(id=f"w{len(futures)}")))
    return function, futures


def open_gate(engine: Any) -> None:
    (engine.folder / "f" / "open").touch()


async def codes(answer: Any, futures: list[asyncio.Future[Any]]) -> list[str]:
    return [(await answer(future)).code for future in futures]


@pytest.mark.parametrize(
    ("policy", "kept", "code"),
    [("block", "abcde", ""), ("reject", "ab", "queue_full"), ("drop_newest", "ab", "dropped"), ("drop_oldest", "cde", "dropped")],
)
async def test_a_full_queue_follows_its_policy_and_counts(engine: Any, answer: Any, policy: str, kept: str, code: str) -> None:
    """One event waits in a queue of three when five more come."""
    function, before = await held_up(engine, policy)
    late = [function.submit(Event(id=each)) for each in "abcde"]
    dropped = [future for future in [*before, *late] if future.done()]
    assert [(await answer(future)).code for future in dropped] == [code] * len(dropped)
    assert function.counters.dropped == len(dropped) == (0 if policy == "block" else 3)
    open_gate(engine)
    answers = [await answer(future) for future in late]
    assert "".join(response.body.decode() for response in answers if not response.code) == kept


async def test_events_that_nobody_waits_for_make_room(engine: Any, answer: Any) -> None:
    function, _ = await held_up(engine, "reject")
    waiting = [function.submit(Event(id=f"e{n}")) for n in range(2)]
    for future in waiting:
        future.cancel()
    await asyncio.sleep(0.02)
    again = [function.submit(Event(id=f"a{n}")) for n in range(2)]
    open_gate(engine)
    assert await codes(answer, again) == ["", ""]


async def test_a_refused_event_is_answered_at_once(engine: Any, answer: Any) -> None:
    function, _ = await held_up(engine, "reject", 1)
    future = function.submit(Event())
    assert future.done()
    assert (future.result().code, future.result().status) == ("queue_full", 429)
    open_gate(engine)


async def test_a_waiting_event_can_be_withdrawn_and_one_a_worker_has_cannot(engine: Any, answer: Any) -> None:
    function, before = await held_up(engine, "block")
    waiting = function.submit(Event())
    assert function.withdraw(waiting)
    assert (await answer(waiting)).code == "no_worker"
    assert not function.withdraw(waiting)
    assert not function.withdraw(before[0])
    open_gate(engine)
    assert set(await codes(answer, before)) == {""}


async def test_what_waits_is_handled_in_order(engine: Any, answer: Any) -> None:
    function, _ = await held_up(engine, "block")
    done: list[str] = []
    for n in range(50):
        function.submit(Event(id=str(n))).add_done_callback(lambda future: done.append(future.result().body.decode()))
    open_gate(engine)
    await engine.until(lambda: len(done) == 50)
    assert done == [str(n) for n in range(50)]


async def test_what_waits_and_what_runs_is_told(engine: Any) -> None:
    function, before = await held_up(engine, "block")
    assert (function.queued, function.in_flight) == (1, len(before) - 1)
    open_gate(engine)
