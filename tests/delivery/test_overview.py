"""The overview of the journal: what its tables hold and what the agent's parts know, together; it keeps nobody waiting."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from edgehost.control.stock import OutputStock, WaitingEvents
from edgehost.delivery import overview as under_test
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.dead_letters import DeadLetters
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.overview import overview
from edgehost.delivery.rows import Change, DeadRow, ReceivedRow, StoredRow
from edgehost.delivery.schema import migrate
from edgehost.parcel import Parcel


class Parts:
    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        self.outbox, self.allowance = Outbox(self.journal, 1000, 100.0), Allowance(2000)
        self.letters = DeadLetters(self.journal, self.outbox, self.allowance, 50)

    async def fill(self) -> None:
        """Two events of pump/in, one of rtd/web a minute old, a message of rtd's output, a dead letter."""
        now = self.journal.now()
        received = []
        for function, trigger, ago_s in (("pump", "in", 5.0), ("pump", "in", 0.0), ("rtd", "web", 60.0)):
            queue = await self.journal.queue("event", function, trigger)
            received.append(ReceivedRow(self.journal.take_places("event", queue), b"x" * 10, None, now - ago_s))
        lane = await self.journal.queue("parcel", "rtd", "up")
        parcel = msgspec.msgpack.encode(Parcel("t", b"y"))
        stored = StoredRow(self.journal.take_places("parcel", lane), "t", parcel, now - 7, None)
        dead = DeadRow("pump", "in", "", "e", "raised", "no", 1, 0.0, 0.0, now, b"")
        await self.journal.committed(Change(received=tuple(received), stored=(stored,), dead=(dead,)))

    async def told(self) -> under_test.JournalStatus:
        return await overview(self.journal, self.outbox, self.allowance, self.letters)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    parts = Parts(tmp_path / "journal.db")
    yield parts
    parts.outbox.close()
    await parts.journal.close()


async def test_it_tells_what_waits_where_how_much_and_how_old(parts: Parts) -> None:
    await parts.journal.open()
    await parts.fill()
    told = await parts.told()
    assert [(each.function, each.trigger, each.count, each.bytes) for each in told.events] == [
        ("pump", "in", 2, 20),
        ("rtd", "web", 1, 10),
    ]
    assert 5 <= told.events[0].oldest_s < 30 and 60 <= told.events[1].oldest_s < 90
    (output,) = told.outbox
    assert (output.function, output.output, output.state, output.count) == ("rtd", "up", "gone", 1) and 7 <= output.oldest_s < 30
    assert (told.state, told.path, told.partly, told.trouble, told.notes) == ("open", str(parts.journal.path), False, "", [])
    assert (told.dead_letters, told.dead_letters_limit, told.events_limit_bytes, told.outbox_limit_bytes) == (1, 50, 2000, 1000)
    assert told.size_bytes > 4096 and told.clock_s > 0 and {each.component for each in told.written} <= {"journal"}


async def test_an_outputs_own_counts_are_told(parts: Parts) -> None:
    await parts.journal.open()
    await parts.fill()
    lane = parts.outbox.lane("rtd", "up")
    await lane.open()
    lane.counts["refused"] += 2
    (output,) = (await parts.told()).outbox
    assert (output.state, output.count, output.counts) == ("gone", 1, {"refused": 2})
    assert parts.outbox.lane("other", "none").state == "memory" and len((await parts.told()).outbox) == 1, "it has no user"


async def test_without_a_journal_it_says_unused_and_makes_none(parts: Parts) -> None:
    told = await parts.told()
    assert (told.state, told.events, told.outbox, told.dead_letters, told.partly) == ("unused", [], [], 0, False)
    assert not parts.journal.path.exists()


async def test_a_disk_that_is_full_is_told_about_without_its_tables(parts: Parts) -> None:
    await parts.journal.open()
    await parts.fill()
    parts.journal.trouble = "the journal cannot be written (full)"
    told = await parts.told()
    assert (told.trouble, told.partly, told.events, told.dead_letters) == (parts.journal.trouble, True, [], 1)


async def test_a_disk_that_hangs_keeps_nobody_waiting(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_ANSWER_S", 0.05)
    await parts.journal.open()
    hangs = threading.Event()
    held = parts.journal.ask(lambda connection: hangs.wait(20))
    assert (await parts.told()).partly
    hangs.set()
    await held


def test_what_is_read_of_a_file_is_in_the_order_of_names() -> None:
    connection = sqlite3.connect(":memory:")
    connection.isolation_level = None
    migrate(connection)
    for number, name in enumerate(("b", "a"), 1):
        connection.execute("INSERT INTO queues VALUES (?, 'event', 'f', ?)", (number, name))
        connection.execute("INSERT INTO events (place, event, at) VALUES (?, x'00', 1.0)", (number << 40,))
    connection.execute("INSERT INTO queues VALUES (3, 'parcel', 'f', 'o')")
    stock = under_test.read(connection, 5.0)
    assert stock.events == [WaitingEvents("f", "a", 1, 1, 4.0), WaitingEvents("f", "b", 1, 1, 4.0)]
    assert stock.outbox == [OutputStock("f", "o", "gone")] and stock.dead_letters == 0
    connection.close()
