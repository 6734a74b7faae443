"""Dead letters: found, shown, dropped, kept to a number, and moved back whole, whatever dies in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehost.delivery import dead_letters, letters
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.dead_letters import DeadLetters
from edgehost.delivery.dedupe import Dedupe
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.rows import AnsweredRow, Change, DeadRow, first_place
from edgehost.errors import ControlError, StateError
from edgehost.event import Event, Origin, Response
from edgehost.letter import Which
from edgehost.manifest.model import Dedupe as Rule
from edgehost.parcel import Parcel

encode = msgspec.msgpack.encode
ROOT = Path(__file__).parents[2]


@dataclass
class Functions:
    """Receivers by rote: `gone` is no function, everything else is."""

    keys: dict[tuple[str, str], letters.KeyOf] = field(default_factory=dict)
    recovered: list[tuple[str, str]] = field(default_factory=list)

    def refusal(self, function: str, output: str) -> str:
        return f"{function!r} is not a function here; there are: pump" if function == "gone" else ""

    def key_of(self, function: str, trigger: str) -> letters.KeyOf | None:
        return self.keys.get((function, trigger))

    async def recover(self, function: str, trigger: str) -> None:
        self.recovered.append((function, trigger))


@dataclass
class Parts:
    """What an agent has of the journal."""

    journal: Journal
    outbox: Outbox
    allowance: Allowance
    letters: DeadLetters
    functions: Functions

    def row(self, number: int = 0, function: str = "pump", output: str = "", ago_s: float = 0.0, **more: object) -> DeadRow:
        event = Event(b"b%d" % number, id=f"e{number}", trigger=Origin("mqtt", "in"))
        parcel = Parcel("up/a", b"b%d" % number, id=f"e{number}/up")
        told = {
            "function": function,
            "trigger": "" if output else "in",
            "output": output,
            "event_id": parcel.id if output else event.id,
            "code": "output_failed" if output else "raised",
            "error": "ValueError: no",
            "attempts": 3,
            "received": 1e9,
            "failed": 1e9 + number,
            "at": self.journal.now() - ago_s,
            "body": encode(parcel if output else event),
        }
        return DeadRow(**{**told, **more})  # type: ignore[arg-type]

    async def bury(self, *rows: DeadRow) -> None:
        await self.journal.committed(Change(dead=rows))

    async def numbers(self, **which: object) -> list[int]:
        found = await self.letters.find(Which(**which), 100)  # type: ignore[arg-type]
        return [letter.number for letter in found.letters]

    async def table(self, name: str) -> list[tuple[object, ...]]:
        return await self.journal.ask(lambda connection: connection.execute(f"SELECT * FROM {name}").fetchall())


Make = Callable[..., Parts]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """`make(limit=10_000, outbox_bytes=...)`: the parts, over one journal file."""
    made: list[Parts] = []

    def build(limit: int = 10_000, outbox_bytes: int = 1 << 20, events_bytes: int = 1 << 20) -> Parts:
        journal = Journal(tmp_path / "journal.db")
        outbox, allowance = Outbox(journal, outbox_bytes, 1000.0), Allowance(events_bytes)
        made.append(Parts(journal, outbox, allowance, DeadLetters(journal, outbox, allowance, limit), Functions()))
        return made[-1]

    yield build
    for parts in made:
        parts.outbox.close()
        await parts.journal.close()


@pytest.fixture
async def parts(make: Make) -> Parts:
    """One set of them with an open journal."""
    made = make()
    await made.journal.open()
    return made


async def test_list_tells_the_newest_and_counts_all_by_function(parts: Parts) -> None:
    await parts.bury(*(parts.row(number) for number in range(1, 6)), parts.row(6, "rtd"))
    found = await parts.letters.find(Which(), 2)
    assert [(letter.number, letter.event_id) for letter in found.letters] == [(6, "e6"), (5, "e5")]
    assert (found.matching, found.functions) == (6, {"pump": 5, "rtd": 1})
    letter = found.letters[1]
    assert (letter.function, letter.trigger, letter.output, letter.code, letter.attempts) == ("pump", "in", "", "raised", 3)
    assert (letter.error, letter.received, letter.failed) == ("ValueError: no", 1e9, 1e9 + 5)
    assert 0 <= letter.age_s < 60 and letter.size_bytes == len(parts.row(5).body)
    assert (await parts.letters.find(Which(), 0)).matching == 6


@pytest.mark.parametrize(
    ("which", "numbers"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"numbers": [1, 3, 99]}, [3, 1]),
        ({"function": "rtd"}, [2]),
        ({"trigger": "other"}, [3]),
        ({"output": "up"}, [4]),
        ({"kind": "event"}, [5, 3, 2, 1]),
        ({"kind": "message"}, [4]),
        ({"code": "timeout"}, [2]),
        ({"event_id": "e1"}, [1]),
        ({"text": "PRESSURE 100%"}, [3]),
        ({"text": "_"}, []),
        ({"older_s": 3600.0}, [5]),
        ({"newer_s": 3600.0}, [4, 3, 2, 1]),
        ({"function": "pump", "kind": "event", "newer_s": 60.0, "text": "no"}, [1]),
        ({"function": "'; DROP TABLE dead"}, []),
    ],
)
async def test_each_filter_and_all_of_them_together(parts: Parts, which: dict[str, object], numbers: list[int]) -> None:
    await parts.bury(
        parts.row(1),
        parts.row(2, "rtd", code="timeout"),
        parts.row(3, trigger="other", error="Pressure 100% too high"),
        parts.row(4, output="up"),
        parts.row(5, ago_s=7200.0, error="old"),
    )
    assert await parts.numbers(**which) == numbers


async def test_show_has_the_whole_event_or_message(parts: Parts) -> None:
    when = datetime(2026, 11, 26, tzinfo=timezone.utc)
    event = Event(b"\xff" * 5000, "x/y", "e1", when, Origin("http", "web"), "/p", {"A": "b"}, "PUT", topic="t")
    await parts.bury(parts.row(1, body=encode(event), error="long " * 1000), parts.row(2, output="up"))
    shown = await parts.letters.whole(1)
    assert (shown.event, shown.parcel) == (event, None) and len(shown.letter.error) == 5000
    assert len((await parts.letters.find(Which(), 9)).letters[1].error) == 2000
    shown = await parts.letters.whole(2)
    assert shown.event is None and shown.parcel == Parcel("up/a", b"b2", id="e2/up")


async def test_a_letter_that_is_not_there_or_broken_says_so(parts: Parts) -> None:
    with pytest.raises(ControlError, match="there is no dead letter 7; `edgehost dead-letters list`"):
        await parts.letters.whole(7)
    await parts.bury(parts.row(1, body=b"\xc1"))
    for asked in (parts.letters.whole(1), parts.letters.replay(Which(every=True), parts.functions)):
        with pytest.raises(ControlError, match=r"dead letter 1 cannot be read .*drop it with `edgehost dead-letters drop 1`"):
            await asked
    assert await parts.letters.drop(Which(numbers=[1])) == 1


async def test_drop_takes_those_meant_and_no_others(parts: Parts) -> None:
    await parts.bury(*(parts.row(number, "rtd" if number % 2 else "pump") for number in range(1, 7)))
    assert await parts.letters.drop(Which(function="rtd")) == 3
    assert await parts.letters.drop(Which(function="rtd")) == 0
    with pytest.raises(ControlError, match="no dead letters 1, 3 that fits"):
        await parts.letters.drop(Which(numbers=[1, 2, 3]))
    assert await parts.numbers() == [6, 4, 2] and parts.letters.count == 3
    assert await parts.letters.drop(Which(every=True)) == 3


@pytest.mark.parametrize("do", ["drop", "replay"])
async def test_all_has_to_be_said(parts: Parts, do: str) -> None:
    await parts.bury(parts.row(1))
    with pytest.raises(ControlError, match="give numbers or a filter, or --all"):
        await (parts.letters.drop(Which()) if do == "drop" else parts.letters.replay(Which(), parts.functions))
    assert await parts.numbers() == [1]


async def test_without_a_journal_there_are_none_and_no_file_is_made(make: Make) -> None:
    parts = make()
    assert (await parts.letters.find(Which(), 9)).matching == 0
    assert await parts.letters.drop(Which(every=True)) == 0
    assert await parts.letters.replay(Which(every=True), parts.functions) == 0
    with pytest.raises(ControlError, match="there are none at all"):
        await parts.letters.whole(1)
    assert not parts.journal.path.exists()


async def test_a_journal_in_trouble_says_so_instead_of_waiting(parts: Parts) -> None:
    parts.journal.trouble = "the journal cannot be written (disk full); make room in /var"
    for asked in (parts.letters.find(Which(), 9), parts.letters.whole(1), parts.letters.drop(Which(every=True))):
        with pytest.raises(StateError, match="make room in /var"):
            await asked


async def test_a_replayed_event_waits_in_its_triggers_queue_as_if_new(parts: Parts) -> None:
    await parts.bury(parts.row(1), parts.row(2), parts.row(3, "rtd"), parts.row(4))
    assert await parts.letters.replay(Which(function="pump"), parts.functions) == 3
    queue = await parts.journal.queue("event", "pump", "in")
    rows = await parts.table("events")
    assert [(place - first_place(queue), key, attempts) for place, _, key, _, attempts in rows] == [  # type: ignore[operator]
        (0, None, 0),
        (1, None, 0),
        (2, None, 0),
    ]
    events = [msgspec.msgpack.decode(row[1], type=Event) for row in rows]  # type: ignore[arg-type]
    assert [event.id for event in events] == ["e1", "e2", "e4"], "oldest first, with their ids"
    assert await parts.numbers() == [3] and parts.letters.count == 1
    assert parts.functions.recovered == [("pump", "in")]
    assert (parts.allowance.events, parts.allowance.used_bytes) == (3, sum(len(row[1]) for row in rows))  # type: ignore[arg-type]
    assert parts.journal.holds("pump", "in") and parts.journal.triggers_of("pump") == {"in"}
    assert parts.journal.next_place("event", queue) == first_place(queue) + 3


async def test_with_dedupe_it_has_its_key_again_and_its_old_answer_is_forgotten(parts: Parts) -> None:
    queue = await parts.journal.queue("event", "pump", "in")
    dedupe = Dedupe(queue, Rule("id", 3600.0), lambda event: event.id, parts.journal, {}, lambda event, entry: None)  # type: ignore[arg-type]
    parts.functions.keys["pump", "in"] = dedupe.key
    answers = [AnsweredRow(f"{queue}/e{number}", 1e12, encode(Response(500, code="raised"))) for number in (1, 2)]
    await parts.journal.committed(Change(dead=(parts.row(1),), answered=tuple(answers)))
    assert await parts.letters.replay(Which(numbers=[1]), parts.functions) == 1
    assert [row[2] for row in await parts.table("events")] == [f"{queue}/e1"]
    assert [row[0] for row in await parts.table("answered")] == [f"{queue}/e2"]


async def test_a_message_goes_back_to_its_outbox(parts: Parts) -> None:
    lane = parts.outbox.lane("pump", "up")
    await lane.open()
    await parts.bury(parts.row(1, output="up", ago_s=99.0), parts.row(2))
    assert await parts.letters.replay(Which(kind="message"), parts.functions) == 1
    ((place, to, parcel, at, until, _, _),) = await parts.table("outbox")
    assert (place, to, until) == (first_place(lane.queue), "up/a", None)
    assert parts.journal.now() - at > 60.0, "it is late since it died"  # type: ignore[operator]
    assert msgspec.msgpack.decode(parcel, type=Parcel) == Parcel("up/a", b"b1", id="e1/up")  # type: ignore[arg-type]
    assert (lane.count, lane.bytes, lane.counts["stored"]) == (1, len(parcel), 1)  # type: ignore[arg-type]
    assert await parts.numbers() == [2] and parts.functions.recovered == [] and parts.allowance.events == 0


async def test_one_that_has_nowhere_to_go_keeps_all_where_they_are(parts: Parts) -> None:
    await parts.bury(parts.row(1), parts.row(2, "gone"), parts.row(3, "gone"))
    with pytest.raises(ControlError) as told:
        await parts.letters.replay(Which(every=True), parts.functions)
    assert str(told.value) == (
        "2 of these dead letters cannot be replayed, so none is: 'gone' is not a function here; there are: pump; "
        "name those to replay, by their numbers or with --function, and drop the others"
    )
    assert await parts.numbers() == [3, 2, 1] and await parts.table("events") == []


async def test_no_room_for_events_or_messages_is_said(make: Make) -> None:
    parts = make(outbox_bytes=10, events_bytes=1)
    await parts.journal.open()
    await parts.outbox.lane("pump", "up").open()
    parts.allowance.take(5)
    await parts.bury(parts.row(1), parts.row(2, output="up"))
    with pytest.raises(ControlError, match="no durable event is taken now: 1 durable events"):
        await parts.letters.replay(Which(numbers=[1]), parts.functions)
    with pytest.raises(ControlError, match="the outbox is full"):
        await parts.letters.replay(Which(numbers=[2]), parts.functions)
    assert await parts.numbers() == [2, 1]


async def test_a_replay_that_fills_the_disks_share_says_how_far_it_came(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "_PAGE", 2)
    parts = make(events_bytes=10)
    await parts.journal.open()
    await parts.bury(*(parts.row(number) for number in range(1, 6)))
    with pytest.raises(
        ControlError, match="2 of them are replayed, the others stay: no durable event is taken now: 2 durable events"
    ):
        await parts.letters.replay(Which(every=True), parts.functions)
    assert await parts.numbers() == [5, 4, 3] and parts.allowance.events == 2


async def test_a_long_replay_goes_page_by_page_and_leaves_new_letters(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "_PAGE", 7)
    await parts.bury(*(parts.row(number) for number in range(1, 51)))
    recover = parts.functions.recover

    async def fails_again(function: str, trigger: str) -> None:
        await recover(function, trigger)
        await parts.bury(parts.row(99))

    parts.functions.recover = fails_again  # type: ignore[method-assign]
    assert await parts.letters.replay(Which(every=True), parts.functions) == 50
    assert len(parts.functions.recovered) == 8 and len(await parts.numbers()) == 8
    assert len(await parts.table("events")) == parts.allowance.events == 50


async def test_one_dropped_by_somebody_else_meanwhile_is_not_counted(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = parts.outbox.lane("pump", "up")
    await lane.open()
    await parts.bury(parts.row(1), parts.row(2, output="up"), parts.row(3))
    page = letters.page

    def page_and_drop(connection: sqlite3.Connection, *more: Any) -> Any:
        chosen = page(connection, *more)
        connection.execute("DELETE FROM dead WHERE number < 3")
        return chosen

    monkeypatch.setattr(letters, "page", page_and_drop)
    assert await parts.letters.replay(Which(every=True), parts.functions) == 1
    assert (lane.count, lane.bytes) == (0, 0)
    assert len(await parts.table("events")) == parts.allowance.events == 1


async def test_a_replay_goes_on_when_who_asked_for_it_has_left(parts: Parts) -> None:
    await parts.bury(*(parts.row(number) for number in range(1, 9)))
    asked = asyncio.ensure_future(parts.letters.replay(Which(every=True), parts.functions))
    await asyncio.sleep(0)
    asked.cancel()
    for _ in range(2000):
        if parts.functions.recovered:
            break
        await asyncio.sleep(0.01)
    assert parts.allowance.events == 8 and await parts.numbers() == []


async def test_the_oldest_go_when_there_are_too_many(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    parts = make(limit=40)
    await parts.journal.open()
    await parts.bury(*(parts.row(number) for number in range(1, 43)))
    assert len(await parts.numbers()) == 42, "a twentieth more is no reason to write"
    for number in range(43, 100):
        await parts.bury(parts.row(number))
    await parts.numbers()
    kept = await parts.numbers()
    assert 40 <= len(kept) <= 42 and kept == list(range(99, 99 - len(kept), -1))
    assert parts.letters.dropped == 99 - len(kept) and parts.letters.count == len(kept)
    assert caplog.text.count("the oldest dead letters are dropped") == 1, "seldom"
    assert "[journal] dead_letters keeps 40" in caplog.text


async def test_too_many_of_an_earlier_run_go_at_the_start(make: Make) -> None:
    first = make()
    await first.journal.open()
    await first.bury(*(first.row(number) for number in range(1, 31)))
    await first.journal.close()
    second = make(limit=10)
    await second.journal.open()
    assert await second.numbers() == list(range(30, 20, -1))
    assert (second.letters.count, second.letters.dropped) == (10, 20)


async def test_drops_are_told_again_after_a_while(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_TELL_S", 0.0)
    parts = make(limit=1)
    await parts.journal.open()
    for number in range(1, 4):
        await parts.bury(parts.row(number))
        await parts.numbers()
    assert "(1 since the start)" in caplog.text and "(2 since the start)" in caplog.text


DIES = """
import asyncio, json, sys
from pathlib import Path
import msgspec
from edgehost.delivery.dead_letters import DeadLetters
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.letter import Which

class Functions:
    def refusal(self, function, output): return ""
    def key_of(self, function, trigger): return lambda event: "1/" + event.id
    async def recover(self, function, trigger): pass

async def main():
    journal = Journal(Path(sys.argv[1]))
    await journal.open()
    outbox = Outbox(journal, 1 << 20, 1000.0)
    await outbox.lane("pump", "up").open()
    letters = DeadLetters(journal, outbox, Allowance(1 << 20), 100)
    print(await letters.replay(Which(every=True), Functions()))
    await journal.close()

asyncio.run(main())
"""


def died(path: Path, fault: str) -> subprocess.CompletedProcess[str]:
    """What DIES came to, which dies at `fault`."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "EDGEHOST_FAULT": fault}
    command = [sys.executable, "-c", DIES, str(path)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("fault", ["journal.applied", "journal.committed", "dead.replayed"])
async def test_a_kill_in_the_middle_of_a_replay_leaves_each_letter_in_one_place(make: Make, fault: str, tmp_path: Path) -> None:
    parts = make()
    await parts.journal.open()
    rows = [parts.row(number, output="up" if number % 3 == 0 else "") for number in range(1, 10)]
    await parts.bury(*rows)
    await parts.journal.close()
    outcomes = set()
    for count in range(1, 12):
        copy = tmp_path / f"copy{count}.db"
        copy.write_bytes(parts.journal.path.read_bytes())
        done = died(copy, f"{fault}:{count}")
        with sqlite3.connect(copy) as connection:
            dead = {row[0] for row in connection.execute("SELECT event_id FROM dead")}
            events = [msgspec.msgpack.decode(row[0], type=Event).id for row in connection.execute("SELECT event FROM events")]
            parcels = [msgspec.msgpack.decode(row[0], type=Parcel).id for row in connection.execute("SELECT parcel FROM outbox")]
        connection.close()
        back = [*events, *parcels]
        assert len(back) == len(set(back)) and dead.isdisjoint(back)
        assert dead | set(back) == {row.event_id for row in rows}, "none is lost"
        outcomes.add((done.returncode, len(back)))
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0 and json.loads(done.stdout) == 9, done.stderr
            break
    assert (0, 9) in outcomes and (-signal.SIGKILL, 0 if fault == "journal.applied" else 9) in outcomes
