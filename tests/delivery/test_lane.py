"""One lane, with a real journal and a receiver in memory: when it goes direct, when over the disk, and what survives what."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from edgehost.backoff import Backoff
from edgehost.delivery import backlog, direct
from edgehost.delivery.rows import Change
from edgehost.errors import AwayError, TriggerError
from edgehost.manifest.model import Store
from edgehost.parcel import NUMBERS, Parcel
from tests.delivery.receiver import Agent, Output, Receiver, at_rest, say


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Callable[..., Agent]]:
    """`agent()`: the next run of one agent. Nothing may go wrong unseen."""
    made: list[Agent] = []
    trouble: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: trouble.append(context))

    def make(drain_per_s: float = 1e6) -> Agent:
        made.append(Agent(tmp_path, 1 << 30, drain_per_s))
        return made[-1]

    yield make
    for one in made:
        await one.close()
    await asyncio.sleep(0)
    gc.collect()
    assert not trouble


async def until(condition: Callable[[], Any], what: str = "the condition") -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, f"waited 20 s for {what}"
        await asyncio.sleep(0.002)


async def store(agent: Agent, lane: Any, *bodies: str, to: str = "t") -> None:
    for body in bodies:
        await agent.outbox.keep(lane, Parcel(to, body.encode()))


async def all_arrive(agent: Agent, output: Output) -> None:
    async def answer() -> None:
        while True:
            output.answer()
            await asyncio.sleep(0.001)

    answering = asyncio.ensure_future(answer())
    await until(lambda: not any(lane.count for lane in agent.outbox.lanes.values()), "everything to leave")
    answering.cancel()
    await agent.written()
    at_rest(agent)
    assert await agent.rows() == 0


# The direct way.


async def test_while_all_is_well_nothing_touches_the_disk(agent: Any) -> None:
    one, output = agent(), Output(Receiver())
    lane = await one.lane(output)
    waits = [say(lane, "t", str(number)) for number in range(5)]
    output.answer()
    await asyncio.gather(*waits)
    assert lane.counts == {} and await one.rows() == 0
    output.at_once = True
    assert say(lane, "t", "5") is None
    assert output.to.got == [*"012345"]


async def test_a_refusal_is_its_callers(agent: Any) -> None:
    one, output = agent(), Output(Receiver(), numbered=True)
    lane = await one.lane(output)
    wait = say(lane, "t", "x")
    assert wait is not None
    output.refuse(TriggerError("no"))
    with pytest.raises(TriggerError, match="no"):
        await wait
    at_rest(one)


async def test_what_is_not_taken_now_is_stored_before_what_comes_later(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "Backoff", lambda _first, _most: Backoff(0.02, 0.02))
    one, output = agent(), Output(Receiver(), window=1)
    lane = await one.lane(output)
    waits = [say(lane, "t", str(number)) for number in range(3)]
    output.refuse(AwayError("busy"))
    waits.append(say(lane, "t", "3"))
    await asyncio.gather(*waits)
    assert lane.count == 4 and output.to.got == []
    await all_arrive(one, output)
    assert output.to.got == [*"0123"]


async def test_what_is_stuck_is_stored_in_time_and_goes_when_it_arrives(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SPILL_S", 0.1)
    one, output = agent(), Output(Receiver())
    lane = await one.lane(output)
    began = time.monotonic()
    wait = say(lane, "t", "x")
    assert wait is not None
    await wait
    assert 0.08 < time.monotonic() - began < 1.0
    assert await one.rows() == 1 and output.to.got == []
    await all_arrive(one, output)
    assert output.to.got == ["x"] and lane.counts["left"] == 1


async def test_one_that_is_stuck_among_others_is_found(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SPILL_S", 0.03)
    one, output = agent(), Output(Receiver())
    lane = await one.lane(output)
    stuck = say(lane, "t", "stuck")
    first = output.sent.popleft()
    end = time.monotonic() + 10
    while not lane.counts["stored"]:
        assert time.monotonic() < end
        say(lane, "u", "other")
        await asyncio.sleep(0.005)
        output.answer()
    output.sent.append(first)
    await all_arrive(one, output)
    assert stuck is not None and stuck.done()


async def test_a_steady_flow_is_never_stored(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SPILL_S", 0.05)
    one, output = agent(), Output(Receiver())
    lane = await one.lane(output)
    for number in range(60):
        say(lane, "t", str(number))
        await asyncio.sleep(0.003)
        output.answer()
    assert lane.counts["stored"] == 0


async def test_what_goes_elsewhere_goes_direct_while_others_wait(agent: Any) -> None:
    one = agent(drain_per_s=1.0)
    output = Output(Receiver(here=False), at_once=True)
    lane = await one.lane(output)
    await store(one, lane, *"abc")
    output.see(True)
    output.to.got.clear()
    assert say(lane, "elsewhere", "direct") is None
    assert say(lane, "t", "d") is not None
    assert output.to.got == ["direct"]
    await all_arrive(one, output)
    assert output.to.got == ["direct", *"abcd"]


# The way over the disk.


async def test_a_late_backlog_leaves_at_its_pace_and_is_marked(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "LATE_S", 0.0)
    one = agent(drain_per_s=50.0)
    output = Output(Receiver(here=False))
    lane = await one.lane(output, rules=Store(ttl_s=3600))  # whose timer is an hour away, and must not be in the way
    await store(one, lane, *(str(number) for number in range(20)))
    lane._backlog._pace._arrivals = 0.0
    began = time.monotonic()
    output.see(True)
    await all_arrive(one, output)
    assert time.monotonic() - began > 0.2, "20 of them at 50 a second, 5 at once"
    assert output.to.got == output.to.late == [str(number) for number in range(20)]


async def test_what_is_fresh_is_not_slowed_down(agent: Any) -> None:
    one, output = agent(drain_per_s=1.0), Output(Receiver(), window=1000)
    lane = await one.lane(output)
    began = time.monotonic()
    await store(one, lane, *(str(number) for number in range(50)))
    await all_arrive(one, output)
    assert time.monotonic() - began < 20, "at one a second it would be 49"
    assert output.to.late == []


async def test_of_two_backlogs_to_one_receiver_the_more_important_leaves_first(
    agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "LATE_S", 0.0)
    one, there = agent(), Receiver(here=False)
    low, high, other = Output(there), Output(there), Output(Receiver("elsewhere", here=False))
    lanes = [
        await one.lane(low, "low", Store(priority=2)),
        await one.lane(high, "high", Store(priority=8)),
        await one.lane(other, "other", Store(priority=1)),
    ]
    for lane, letter in zip(lanes, "lho", strict=True):
        await store(one, lane, *(f"{letter}{number}" for number in range(30)))
    there.here = other.to.here = True
    for output in (low, high, other):
        for tell in output._tells:
            tell()
    await until(lambda: [low.answer(), high.answer(), other.answer()] and len(there.got) == 60, "both to have left")
    assert there.got == [*(f"h{number}" for number in range(30)), *(f"l{number}" for number in range(30))]
    assert other.to.got == [f"o{number}" for number in range(30)], "another receiver's is not held up"


async def test_a_refusal_for_good_is_a_dead_letter(agent: Any) -> None:
    one, output = agent(), Output(Receiver())
    lane = await one.lane(output)
    await store(one, lane, "bad", "good")
    output.refuse(TriggerError("never"), 1)
    await all_arrive(one, output)
    found = await one.journal.ask(lambda connection: connection.execute("SELECT function, output, error FROM dead").fetchall())
    assert found == [("f", "out", "never")] and output.to.got == ["good"]


async def test_what_waits_too_long_expires_also_on_disk_alone(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_EXPIRE_S", 0.02)
    monkeypatch.setattr(backlog, "_READY", 5)
    one = agent()
    lane = await one.lane(Output(Receiver(here=False), numbered=True), rules=Store(ttl_s=0.1))
    await asyncio.gather(*(one.outbox.keep(lane, Parcel("t", b"x")) for _ in range(400)))
    await until(lambda: lane.counts["expired"] == 400)
    await one.written()
    at_rest(one)
    assert await one.rows() == 0


async def test_a_shorter_ttl_does_not_wait_behind_a_longer_one(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_EXPIRE_S", 0.02)
    one, output = agent(), Output(Receiver(here=False))
    lane = await one.lane(output, rules=Store(ttl_s=1000))
    await store(one, lane, "long")
    lane.attach(Output(output.to), Store(ttl_s=0.05))
    await store(one, lane, "short")
    await until(lambda: lane.counts["expired"] == 1)
    assert lane.count == 1


async def test_the_next_run_goes_on_where_this_one_ended(agent: Any) -> None:
    first, there = agent(), Receiver(here=False)
    lane = await first.lane(Output(there))
    await store(first, lane, *(f"{number:03}" for number in range(600)))
    kept = lane.count, lane.bytes
    await first.close()
    second = agent()
    output = Output(there)
    lane = await second.lane(output)
    assert (lane.count, lane.bytes) == kept
    await store(second, lane, "600")
    output.see(True)
    await all_arrive(second, output)
    assert there.got == [f"{number:03}" for number in range(601)]


async def test_a_lane_opened_twice_at_once_counts_once(agent: Any) -> None:
    first = agent()
    await store(first, await first.lane(Output(Receiver(here=False))), *"abc")
    await first.close()
    second = agent()
    lane = second.outbox.lane("f", "out")
    await asyncio.gather(lane.open(), lane.open(), lane.open())
    assert lane.count == 3


async def test_a_lane_that_is_opened_late_begins_by_itself(agent: Any) -> None:
    first = agent()
    await store(first, await first.lane(Output(Receiver(here=False))), *"abc")
    await first.close()
    second, output = agent(), Output(Receiver())
    lane = second.outbox.lane("f", "out")
    lane.attach(output, Store())
    assert lane.state == "memory"
    direct_one = say(lane, "t", "direct")
    output.answer()
    assert direct_one is not None
    await direct_one
    await lane.open()
    await all_arrive(second, output)
    assert output.to.got == ["direct", *"abc"]


async def test_a_row_that_nobody_can_read_blocks_nobody(agent: Any) -> None:
    one = agent()
    output = Output(Receiver(here=False))
    lane = await one.lane(output)
    await store(one, lane, *"abc")
    await one.close()
    two = agent()
    await two.journal.open()
    await two.journal.ask(lambda connection: connection.execute("UPDATE outbox SET parcel = x'c1' WHERE place % 4 = 1"))
    output = Output(Receiver())
    lane = await two.lane(output)
    await all_arrive(two, output)
    assert output.to.got == ["a", "c"] and lane.counts["dropped"] == 1


async def test_what_has_just_left_is_not_dropped_once_more(agent: Any) -> None:
    one, output = agent(), Output(Receiver())
    lane = await one.lane(output)
    await store(one, lane, *"abc")
    evicting: list[asyncio.Task[int]] = []
    output.sent[-1].done.add_done_callback(
        lambda _done: evicting.append(asyncio.create_task(lane.evict(1 << 30, "by this test")))
    )
    output.answer()
    await until(lambda: evicting and evicting[0].done())
    at_rest(one)
    assert lane.counts["dropped"] == 0 and await one.rows() == 0


# Versions come and go.


async def test_after_an_upgrade_that_failed_the_old_output_is_in_use_again(agent: Any) -> None:
    one, old, new = agent(), Output(Receiver("old")), Output(Receiver("new"))
    lane = await one.lane(old, rules=Store(priority=3))
    lane.attach(new, Store(priority=7))
    lane.detach(new)
    wait = say(lane, "t", "x")
    old.answer()
    assert wait is not None
    await wait
    assert (old.to.got, new.to.got, lane.rules.priority) == (["x"], [], 3)


async def test_an_upgrade_overtakes_nothing(agent: Any) -> None:
    one, there = agent(), Receiver()
    old, new = Output(there, window=1), Output(there, window=1)
    lane = await one.lane(old)
    waits = [say(lane, "t", str(number)) for number in range(3)]
    lane.attach(new, Store())
    waits += [say(lane, "t", str(number)) for number in range(3, 6)]
    lane.detach(old)
    await one.written()
    assert not new.sent
    old.answer(2)
    await one.written()
    old.refuse(AwayError("the version ends"))
    await asyncio.gather(*waits)
    await all_arrive(one, new)
    assert there.got == [*"012345"]


@pytest.mark.parametrize("numbered", [False, True])
async def test_what_the_old_receiver_has_not_taken_goes_to_the_new_one(agent: Any, numbered: bool) -> None:
    one, old, new = agent(), Output(Receiver("old"), numbered=numbered), Output(Receiver("new"), numbered=numbered)
    lane = await one.lane(old)
    for number in range(30):
        say(lane, "t", f"{number:02}")
    old.see(False)
    assert len(old.sent) == 3  # had left
    lane.attach(new, Store())
    lane.detach(old)
    await all_arrive(one, new)
    assert new.to.got == [f"{number:02}" for number in range(30)]


async def test_without_an_output_what_comes_is_refused_and_what_waits_stays(agent: Any) -> None:
    one, output = agent(), Output(Receiver())
    lane = await one.lane(output)
    wait = say(lane, "t", "x")
    lane.detach(output)
    assert wait is not None
    await wait
    with pytest.raises(AwayError, match="has ended"):
        say(lane, "t", "y")
    output.refuse(AwayError("closed"))
    await one.written()
    assert lane.count == 1 and await one.rows() == 1
    again = Output(Receiver())
    lane.attach(again, Store())
    await all_arrive(one, again)


async def test_what_arrives_while_the_agent_ends_does_not_leave_again(agent: Any) -> None:
    one, output = agent(), Output(Receiver())
    lane = await one.lane(output)
    waits = [say(lane, "t", str(number)) for number in range(4)]
    lane.detach(output)
    one.outbox.close()
    output.answer(2)
    output.refuse(AwayError("closed"))
    await asyncio.sleep(0)
    await one.journal.close()
    await asyncio.gather(*waits)
    two, output = agent(), Output(Receiver())
    await two.lane(output)
    await all_arrive(two, output)
    assert output.to.got == ["2", "3"]


# In two steps.


async def numbers_on_disk(agent: Agent) -> list[tuple[int, int]]:
    select = "SELECT packet_id, released FROM outbox ORDER BY place"
    found: list[tuple[int, int]] = await agent.journal.ask(lambda connection: connection.execute(select).fetchall())
    return found


async def test_a_number_is_on_disk_before_its_message_is_sent_and_a_release_before_it_is_done(agent: Any) -> None:
    one, output = agent(), Output(Receiver(), numbered=True)
    lane = await one.lane(output)
    item, row = lane.prepare(Parcel("t", b"x"))  # as a replay does, which writes no number
    await one.journal.committed(Change(stored=(row,)))
    lane.stored(item)
    assert not output.sent and row.packet_id == 0
    await until(lambda: output.sent)
    [(number, released)] = await numbers_on_disk(one)
    assert number in NUMBERS and not released
    assert output.sent[0].slip is not None and output.sent[0].slip.number == number
    output.answer()
    assert output.to.open == {number: "x"}
    await until(lambda: not output.to.open)
    await all_arrive(one, output)


async def test_the_next_run_goes_on_with_open_exchanges(agent: Any) -> None:
    first, there = agent(), Receiver()
    output = Output(there, numbered=True, window=3)
    lane = await first.lane(output)
    await store(first, lane, *"abcde")
    output.sent[1].slip.release(lambda: None)  # type: ignore[union-attr]
    await first.written()
    before = await numbers_on_disk(first)
    assert [released for _, released in before] == [0, 1, 0, 0, 0]
    there.take(output.sent[0].parcel, False, before[0][0])
    there.open[before[1][0]] = "b"
    there.got.append("b")
    await first.close()
    second = agent()
    other = await second.lane(Output(Receiver("elsewhere", here=False), numbered=True), "other")
    await asyncio.gather(*(second.outbox.keep(other, Parcel("t", b"other")) for _ in range(100)))
    taken = {number for number, _ in await numbers_on_disk(second)}
    assert len(taken) == 105  # nobody has got one of those that are open
    output = Output(there, numbered=True)
    lane = await second.lane(output)
    await until(lambda: len(output.sent) == 5)
    slips = [each.slip for each in output.sent]
    assert [(slip.number, slip.begun, slip.released) for slip in slips if slip is not None] == [
        (number, True, bool(released)) for number, released in before
    ]
    while lane.count:
        output.answer()
        await asyncio.sleep(0.001)
    assert there.got == [*"abcde"] and there.open == {}


async def test_claims_of_one_page_are_one_change(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = agent()
    await store(first, await first.lane(Output(Receiver(here=False))), *(str(number) for number in range(100)))
    await first.close()
    second = agent()
    changes: list[Change] = []
    commit = second.journal.commit

    def noted(change: Change, then: Any = None) -> None:
        changes.append(change)
        commit(change, then)

    monkeypatch.setattr(second.journal, "commit", noted)
    output = Output(Receiver(), numbered=True)
    await second.lane(output)
    await until(lambda: output.sent)
    assert [len(change.claimed) for change in changes] == [100]
    await all_arrive(second, output)


async def test_what_its_receiver_has_neither_expires_nor_is_dropped(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_EXPIRE_S", 0.02)
    first, there = agent(), Receiver()
    output = Output(there, numbered=True)
    lane = await first.lane(output, rules=Store(ttl_s=0.2))
    await store(first, lane, "a", "b")
    output.sent[0].slip.release(lambda: None)  # type: ignore[union-attr]
    await first.written()
    await first.close()
    there.here = False
    second, output = agent(), Output(there, numbered=True)
    lane = await second.lane(output)
    await until(lambda: lane.counts["expired"] == 1)
    await lane.evict(1 << 30, "by this test")
    assert lane.count == 1
    output.see(True)
    await all_arrive(second, output)


async def test_more_messages_than_numbers_leave_all_the_same(agent: Any) -> None:
    one, output = agent(), Output(Receiver(), numbered=True, window=100)
    lane = await one.lane(output)
    while one.outbox.numbers.take():
        pass
    one.outbox.numbers.free(NUMBERS[5])
    await store(one, lane, *"abc")
    assert [each.slip.number if each.slip is not None else 0 for each in output.sent] == [NUMBERS[5], 0, 0]
