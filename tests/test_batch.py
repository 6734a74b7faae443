"""Batcher: events leave together, when enough have come or the first has waited long enough; each gets its own answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgehost.batch import Batcher
from edgehost.event import Event, Response, failure
from edgehost.manifest.model import Batch


class Function:
    """Takes batches; the test answers them."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.futures: list[asyncio.Future[Any]] = []
        self.taken = asyncio.Event()

    def submit(self, events: list[Event]) -> asyncio.Future[Any]:
        self.batches.append(events)
        self.taken.set()
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    def answer(self, number: int = 0) -> None:
        self.futures[number].set_result([Response(body=event.id.encode(), event_id=event.id) for event in self.batches[number]])


@pytest.fixture
def function() -> Function:
    return Function()


def ids(batch: list[Event]) -> list[str]:
    return [event.id for event in batch]


async def test_a_full_batch_leaves_at_once_and_each_event_gets_its_own_answer(function: Function) -> None:
    batcher = Batcher(Batch(3, 1000), function.submit)
    futures = [batcher.submit(Event(id=str(n))) for n in range(7)]
    assert [ids(batch) for batch in function.batches] == [["0", "1", "2"], ["3", "4", "5"]]
    function.answer(1)
    function.answer(0)
    await asyncio.sleep(0)
    assert [future.result().body for future in futures[:6]] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert not futures[6].done()
    batcher.flush()
    assert ids(function.batches[2]) == ["6"]


async def test_only_the_last_of_a_batch_says_so(function: Function) -> None:
    batcher = Batcher(Batch(3, 1000), function.submit)
    for n in range(3):
        batcher.submit(Event(id=str(n)))
    assert [event.last_in_batch for event in function.batches[0]] == [False, False, True]


async def test_a_batch_that_is_not_full_leaves_after_its_wait(function: Function) -> None:
    batcher = Batcher(Batch(100, 0.05), function.submit)
    batcher.submit(Event(id="a"))
    batcher.submit(Event(id="b"))
    assert not function.batches
    await asyncio.wait_for(function.taken.wait(), 20)
    assert [ids(batch) for batch in function.batches] == [["a", "b"]]


async def test_the_wait_begins_with_the_first_event_of_each_batch(function: Function) -> None:
    batcher = Batcher(Batch(2, 1000), function.submit)
    batcher.submit(Event())
    batcher.submit(Event())
    assert batcher._timer is None, "a batch that has left waits for nothing"
    batcher.submit(Event())
    assert batcher._timer is not None
    batcher.flush()
    assert batcher._timer is None


async def test_an_event_whose_submitter_left_takes_no_place(function: Function) -> None:
    batcher = Batcher(Batch(3, 1000), function.submit)
    first, second = batcher.submit(Event(id="a")), batcher.submit(Event(id="b"))
    second.cancel()
    batcher.submit(Event(id="c"))
    assert ids(function.batches[0]) == ["a", "c"]
    function.answer()
    await asyncio.sleep(0)
    assert first.result().body == b"a"


async def test_a_batch_nobody_waits_for_is_not_delivered(function: Function) -> None:
    batcher = Batcher(Batch(2, 1000), function.submit)
    batcher.submit(Event()).cancel()
    batcher.flush()
    assert not function.batches


async def test_a_submitter_that_leaves_while_the_batch_runs_costs_the_others_nothing(function: Function) -> None:
    batcher = Batcher(Batch(3, 1000), function.submit)
    futures = [batcher.submit(Event(id=str(n))) for n in range(3)]
    futures[1].cancel()
    function.answer()
    await asyncio.sleep(0)
    assert [future.result().body for future in (futures[0], futures[2])] == [b"0", b"2"]


async def test_a_failed_batch_fails_every_event(function: Function) -> None:
    batcher = Batcher(Batch(2, 1000), function.submit)
    futures = [batcher.submit(Event()) for _ in range(2)]
    function.futures[0].set_result([failure("timeout", "late")] * 2)
    await asyncio.sleep(0)
    assert [future.result().code for future in futures] == ["timeout"] * 2


async def test_what_is_collected_during_an_upgrade_goes_to_the_new_version(function: Function) -> None:
    new = Function()
    batcher = Batcher(Batch(2, 1000), function.submit)
    batcher.submit(Event(id="a"))
    batcher.deliver = new.submit
    batcher.submit(Event(id="b"))
    assert not function.batches
    assert ids(new.batches[0]) == ["a", "b"]
