"""The wear account: what is counted, what saving costs and brings, and what is given up when a day's bytes are spent."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.delivery import saving
from edgehost.delivery.ending import Ending, Entry
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.rows import Change, ReceivedRow
from edgehost.delivery.saving import Saving
from edgehost.delivery.wear import DAYS_KEPT, EARLIER, Worn, account, added, shortened, thrift
from edgehost.event import Event, Origin, failure

TODAY = 20_000

days = st.dictionaries(st.integers(0, 40_000), st.integers(1, 1 << 40), max_size=100)
accounts = st.dictionaries(st.sampled_from(["journal", "state"]), days, max_size=2)


@pytest.mark.parametrize(
    ("today", "cap", "stage", "rest_s"),
    [
        (10**12, None, "free", 0.0),
        (0, 1000, "free", 0.0),
        (799, 1000, "free", 0.0),
        (800, 1000, "resting", 0.1),
        (900, 1000, "resting", 0.55),
        (1000, 1000, "spent", 1.0),
        (5000, 1000, "spent", 1.0),
    ],
)
def test_how_much_is_saved(today: int, cap: int | None, stage: str, rest_s: float) -> None:
    found = thrift(today, cap)
    assert found.stage == stage
    assert found.rest_s == pytest.approx(rest_s)


def test_the_account_is_of_today_a_week_and_all() -> None:
    written = {"state": {TODAY: 1, TODAY - 6: 2, TODAY - 7: 4, TODAY + 1: 8, EARLIER: 16}, "journal": {TODAY - 1: 32}}
    assert account(written, TODAY) == [Worn("journal", 0, 32, 32), Worn("state", 1, 3, 31)]
    assert account({"state": {0: 1, EARLIER: 2}}, 0) == [Worn("state", 1, 1, 3)], "a clock that begins at 1970"


@given(accounts, accounts)
def test_no_byte_is_lost_or_counted_twice(one: dict[str, dict[int, int]], other: dict[str, dict[int, int]]) -> None:
    def total(written: dict[str, dict[int, int]]) -> int:
        return sum(sum(days.values()) for days in written.values())

    both = added(one, other)
    assert total(both) == total(one) + total(other)
    short = shortened(both)
    assert total(short) == total(both)
    assert shortened(short) == short
    assert all(len(days) <= DAYS_KEPT + 1 for days in short.values())


def test_one_day_far_ahead_does_not_push_the_others_out() -> None:
    written = {"journal": {**{TODAY - back: 10 for back in range(5)}, 99_999: 1}}
    assert shortened(written) == written


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Callable[[], Journal]]:
    made: list[Journal] = []

    def make() -> Journal:
        made.append(Journal(tmp_path / "journal.db"))
        return made[-1]

    yield make
    for one in made:
        if one.state != "closed":
            await one.close()


async def test_what_was_written_is_known_after_a_restart_and_what_came_before_the_opening_too(
    journal: Callable[[], Journal],
) -> None:
    one = journal()
    one.count_written("state", 100)
    await one.open()
    one.count_written("state", 11)
    queue = await one.queue("event", "f", "t")
    await one.committed(Change((ReceivedRow(one.take_places("event", queue), os.urandom(20_000), None, 0.0),)))
    before = {worn.component: worn.today_bytes for worn in one.wear()}
    assert before["state"] == 111
    assert before["journal"] > 20_000
    await one.close()
    two = journal()
    two.count_written("state", 1)
    await two.open()
    after = {worn.component: worn.today_bytes for worn in two.wear()}
    assert after["state"] == 112
    assert after["journal"] >= before["journal"]


async def test_events_cost_fewer_bytes_the_longer_the_journal_rests(journal: Callable[[], Journal]) -> None:
    """Each is received and settled, one every 5 ms, as small events of a sensor are."""
    one = journal()
    await one.open()
    queue = await one.queue("event", "f", "t")

    async def bytes_for(count: int, rest_s: float) -> int:
        one.rest(rest_s)
        before = sum(worn.total_bytes for worn in one.wear())
        waits = []
        for _ in range(count):
            place = one.take_places("event", queue)
            received = one.committed(Change((ReceivedRow(place, os.urandom(100), None, 0.0),)))
            received.add_done_callback(lambda _, place=place: waits.append(one.committed(Change(settled=(place,)))))
            waits.append(received)
            await asyncio.sleep(0.005)
        while not all(wait.done() for wait in waits):
            await asyncio.gather(*waits)
        return sum(worn.total_bytes for worn in one.wear()) - before

    restless = await bytes_for(100, 0.0)
    resting = await bytes_for(100, 0.25)
    assert resting * 3 < restless, f"{resting} bytes for 100 events instead of {restless}"


def letter_of(journal: Journal) -> Ending:
    return Ending("f", journal, Outbox(journal, 1 << 20, 100.0))


EVENT = Event(b"in", id="e1", trigger=Origin("mqtt", "sensors"))


async def dead_letters(journal: Journal) -> int:
    (count,) = await journal.ask(lambda connection: connection.execute("SELECT count(*) FROM dead").fetchone())
    return int(count)


async def test_at_the_cap_the_journal_rests_and_keeps_only_what_was_promised(
    journal: Callable[[], Journal], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, saved = journal(), [0]
    await one.open()
    keeper = Saving(one, 1_000_000, {"state": lambda: saved[0]})
    clock = [TODAY * 86400.0]
    monkeypatch.setattr("time.time", lambda: clock[0])
    ending = letter_of(one)
    keeper.look()
    assert keeper.trouble == ""
    await ending.bury(EVENT, failure("raised", "no"), 1)
    saved[0] = 900_000
    keeper.look()
    assert "written today: the journal writes less often" in keeper.trouble
    saved[0] = 1_200_000
    for _ in range(3):
        keeper.look()
    assert "dead letters of events that are not on disk are not kept" in keeper.trouble
    await ending.bury(EVENT, failure("raised", "no"), 1)
    assert (await dead_letters(one), one.spared) == (1, 1)
    await ending.end(EVENT, Entry(place=one.take_places("event", 1)), failure("raised", "no"), [], True)
    assert await dead_letters(one) == 2, "an event on disk has been promised its record"
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 2, "each stage once"
    clock[0] += 86400
    caplog.clear()
    with caplog.at_level("INFO"):
        keeper.look()
    assert keeper.trouble == ""
    assert caplog.messages == ["a new day: the journal has its bytes again; 1 dead letters were not kept"]
    await ending.bury(EVENT, failure("raised", "no"), 1)
    assert await dead_letters(one) == 3


async def test_without_a_cap_bytes_are_counted_and_nothing_rests(journal: Callable[[], Journal]) -> None:
    one = journal()
    keeper = Saving(one, None, {"state": lambda: 10**12})
    keeper.look()
    keeper.look()
    assert keeper.trouble == ""
    assert [(worn.component, worn.today_bytes) for worn in one.wear()] == [("state", 10**12)]


async def test_the_saving_looks_again_and_again(journal: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "EVERY_S", 0.01)
    one, saved = journal(), [1]
    task = asyncio.create_task(Saving(one, None, {"state": lambda: saved[0]}).run())
    await asyncio.sleep(0.05)
    saved[0] = 5
    await asyncio.sleep(0.1)
    task.cancel()
    assert [worn.total_bytes for worn in one.wear()] == [5]
