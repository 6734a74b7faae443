"""All lanes together, with a real journal: one message too many, who waits for whom, and that nothing is miscounted."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgehost.delivery.item import encode
from edgehost.delivery.lane import Lane
from edgehost.delivery.rows import Change
from edgehost.errors import StateError
from edgehost.manifest.model import FullPolicy, Store
from edgehost.parcel import Parcel
from tests.delivery.receiver import Agent, Output, Receiver, at_rest, say

BODY = "x" * 90


def parcel(number: int, to: str = "t") -> Parcel:
    return Parcel(to, f"{number:02}{BODY}".encode())


SIZE = len(encode(parcel(0)))


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Callable[..., Agent]]:
    """`agent(limit)`: a journal and an outbox; nothing may go wrong unseen."""
    made: list[Agent] = []
    trouble: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: trouble.append(context))

    def make(limit: int = 1 << 30, drain_per_s: float = 1e6) -> Agent:
        made.append(Agent(tmp_path, limit, drain_per_s))
        return made[-1]

    yield make
    for one in made:
        await one.close()
    await asyncio.sleep(0)
    gc.collect()
    assert not trouble


def away() -> Output:
    return Output(Receiver(here=False))


def numbers(bodies: list[str]) -> list[int]:
    return [int(body[:2]) for body in bodies]


async def drained(agent: Agent, *outputs: Output) -> None:
    for output in outputs:
        output.see(True)
    for _ in range(400):
        for output in outputs:
            output.answer()
        await asyncio.sleep(0.002)
        if not any(lane.count for lane in agent.outbox.lanes.values()):
            break
    await agent.written()
    at_rest(agent)
    assert await agent.rows() == 0


def soon(work: Awaitable[None]) -> asyncio.Future[None]:
    return asyncio.ensure_future(work)


@pytest.mark.parametrize("of", ["quota", "limit"])
@pytest.mark.parametrize(
    ("policy", "arrive"),
    [("drop_oldest", [*range(4, 10)]), ("drop_newest", [*range(6)]), ("drop_low_priority", None), ("block", [*range(10)])],
)
async def test_one_message_too_many(agent: Any, policy: FullPolicy, arrive: list[int] | None, of: str) -> None:
    room = 6 * SIZE
    one = agent(room if of == "limit" else 1 << 30)
    output = away()
    lane = await one.lane(output, rules=Store(full=policy, quota_bytes=room if of == "quota" else None))
    waits = [soon(one.outbox.keep(lane, parcel(number))) for number in range(10)]
    await asyncio.sleep(0)
    await one.written()
    await one.written()
    assert lane.bytes <= room
    # With no output below it, a full limit leaves drop_low_priority nothing to drop but what comes.
    expected = arrive if arrive is not None else ([*range(4, 10)] if of == "quota" else [*range(6)])
    assert [wait.done() for wait in waits] == [policy != "block" or number < 6 for number in range(10)]
    await drained(one, output)
    assert all(wait.done() and wait.exception() is None for wait in waits)
    assert numbers(output.to.got) == expected
    assert lane.counts["dropped"] == 10 - len(expected)


async def test_the_least_important_makes_room(agent: Any) -> None:
    one = agent(6 * SIZE)
    outputs = [away() for _ in range(3)]
    low, lower, high = [
        await one.lane(output, name, Store(full="drop_low_priority", priority=priority))
        for name, priority, output in zip(("low", "lower", "high"), (4, 2, 7), outputs, strict=True)
    ]
    for number in range(3):
        await one.outbox.keep(low, parcel(number))
        await one.outbox.keep(lower, parcel(number))
    for number in range(4):
        await one.outbox.keep(high, parcel(number))
    await one.outbox.keep(lower, parcel(9))  # nobody is below it
    assert (low.count, lower.count, high.count) == (2, 0, 4)
    await drained(one, *outputs)
    assert [numbers(output.to.got) for output in outputs] == [[1, 2], [], [0, 1, 2, 3]]


async def test_what_is_on_its_way_is_not_dropped_and_does_not_hang(agent: Any) -> None:
    one = agent(3 * SIZE)
    output = Output(Receiver(), window=3)
    lane = await one.lane(output, rules=Store(full="drop_oldest"))
    for number in range(3):
        await one.outbox.keep(lane, parcel(number))
    await asyncio.wait_for(one.outbox.keep(lane, parcel(3)), 5)
    assert (len(output.sent), lane.counts["dropped"]) == (3, 1)
    await drained(one, output)
    assert numbers(output.to.got) == [0, 1, 2]


async def test_two_evictions_at_once_count_each_row_once(agent: Any) -> None:
    one = agent()
    output = away()
    lane = await one.lane(output)
    for number in range(20):
        await one.outbox.keep(lane, parcel(number))
    await asyncio.gather(
        lane.evict(5 * SIZE, "by this test"), lane.evict(5 * SIZE, "by this test"), lane.evict(2 * SIZE, "by this test")
    )
    assert lane.count == await one.rows()
    await drained(one, output)
    assert numbers(output.to.got) == [*range(20)][-len(output.to.got) :]


async def test_everybody_who_waits_for_room_gets_it(agent: Any) -> None:
    one = agent(4 * SIZE)
    outputs = [away() for _ in range(3)]
    lanes = [await one.lane(output, rules=Store(full="block"), function=f"f{at}") for at, output in enumerate(outputs)]
    for number in range(4):
        await one.outbox.keep(lanes[0], parcel(number))
    waits = [soon(one.outbox.keep(lane, parcel(number))) for number in range(10) for lane in lanes[1:]]
    await asyncio.sleep(0.02)
    assert not any(wait.done() for wait in waits)
    outputs[0].see(True)
    await asyncio.sleep(0.02)
    outputs[0].answer()
    await drained(one, *outputs)
    assert all(wait.done() for wait in waits)
    assert [numbers(output.to.got) for output in outputs[1:]] == [[*range(10)], [*range(10)]]


async def test_what_comes_behind_a_blocked_message_does_not_overtake_it(agent: Any) -> None:
    one = agent(2 * SIZE)
    output = Output(Receiver(here=False), at_once=True)
    lane = await one.lane(output, rules=Store(full="block"))
    for number in range(2):
        await one.outbox.keep(lane, parcel(number))
    blocked = soon(one.outbox.keep(lane, parcel(2)))
    await asyncio.sleep(0.01)
    output.see(True)
    other = say(lane, "elsewhere", f"50{BODY}")
    behind = say(lane, "t", f"03{BODY}")
    assert other is None and behind is not None
    await drained(one, output)
    await blocked
    await behind
    assert numbers(output.to.got) == [50, 0, 1, 2, 3]


async def test_a_raised_limit_lets_the_blocked_in(agent: Any) -> None:
    one = agent(2 * SIZE)
    output = away()
    lane = await one.lane(output, rules=Store(full="block"))
    waits = [soon(one.outbox.keep(lane, parcel(number))) for number in range(4)]
    await one.written()
    assert [wait.done() for wait in waits] == [True, True, False, False]
    one.outbox.limit(10 * SIZE)
    await asyncio.wait_for(asyncio.gather(*waits), 20)
    await drained(one, output)
    assert numbers(output.to.got) == [0, 1, 2, 3]


async def test_a_hurried_outbox_keeps_nobody_waiting_and_loses_nothing(agent: Any) -> None:
    one = agent(2 * SIZE)
    output = away()
    lane = await one.lane(output, rules=Store(full="block"))
    waits = [soon(one.outbox.keep(lane, parcel(number))) for number in range(6)]
    await one.written()
    one.outbox.hurry()
    await asyncio.wait_for(asyncio.gather(*waits), 5)
    assert await one.rows() == 6
    await drained(one, output)
    assert numbers(output.to.got) == [*range(6)]


async def stored(agent: Agent, lane: Lane, *parcels: Parcel) -> int:
    """As an event's end does it."""
    rows = await agent.outbox.rows([(lane, each) for each in parcels])
    await agent.journal.committed(Change(stored=tuple(row for _, row in rows)))
    agent.outbox.stored(rows)
    return len(rows)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "block"])
async def test_a_transaction_asks_for_room_for_all_it_stores(agent: Any, policy: FullPolicy) -> None:
    one = agent(4 * SIZE)
    output = away()
    lane = await one.lane(output, rules=Store(full=policy))
    assert await stored(one, lane, *(parcel(number) for number in range(3))) == 3
    more = asyncio.ensure_future(stored(one, lane, *(parcel(number) for number in range(3, 6))))
    await asyncio.sleep(0.05)
    assert more.done() == (policy != "block")
    assert lane.bytes <= 4 * SIZE or policy == "block"
    one.outbox.hurry()
    await more
    await drained(one, output)
    assert numbers(output.to.got) == {"drop_oldest": [2, 3, 4, 5], "drop_newest": [0, 1, 2, 3], "block": [*range(6)]}[policy]


async def test_a_transaction_that_fails_leaves_no_trace(agent: Any) -> None:
    one = agent()
    lane = await one.lane(away())
    rows = await one.outbox.rows([(lane, parcel(0)), (lane, parcel(1, "u"))])
    assert lane.count == 2
    one.outbox.never_stored(rows)
    at_rest(one)
    assert await stored(one, lane, parcel(2)) == 1


async def test_without_a_journal_the_caller_is_told(agent: Any) -> None:
    one = agent()
    lane = await one.lane(away())
    await one.journal.close()
    wait = say(lane, "t", "x")
    assert wait is not None
    with pytest.raises(StateError):
        await wait
    at_rest(one)


async def test_shedding_takes_from_low_priorities_alone(agent: Any) -> None:
    one = agent()
    outputs = [away() for _ in range(3)]
    lanes = [
        await one.lane(output, f"p{priority}", Store(priority=priority))
        for output, priority in zip(outputs, (1, 4, 5), strict=True)
    ]
    for lane in lanes:
        for number in range(4):
            await one.outbox.keep(lane, parcel(number))
    freed = await one.outbox.shed(5 * SIZE)
    assert freed >= 5 * SIZE and [lane.count for lane in lanes] == [0, 3, 4]
    await one.outbox.shed(1 << 30)
    assert [lane.count for lane in lanes] == [0, 0, 4]
    await drained(one, *outputs)
