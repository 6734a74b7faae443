"""`edgehost journal`: what waits, what is wrong, what was written, as a picture for people and as JSON."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edgehost.control.stock import JournalStatus, OutputStock, WaitingEvents, WrittenBytes
from edgehost.delivery.journal import Journal
from edgehost.delivery.rows import Change, ReceivedRow, StoredRow

STATUS = JournalStatus(
    state="open",
    path="/var/lib/edgehost/journal.db",
    size_bytes=3 << 20,
    clock_s=90061.0,
    events=[WaitingEvents("pump", "in", 1200, 4 << 20, 75.0)],
    events_limit_bytes=64 << 20,
    outbox=[
        OutputStock("pump", "up", "waiting", 50, 5000, 3600.0, {"stored": 60, "left": 10, "expired": 0}),
        OutputStock("rtd", "up", "direct"),
    ],
    outbox_limit_bytes=64 << 20,
    dead_letters=2,
    dead_letters_limit=10_000,
    written=[WrittenBytes("journal", 1 << 20, 7 << 20)],
)


@pytest.fixture
def show(cli: Any, agent: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`show(status)`: what the command prints of an agent's journal."""

    def ask(status: JournalStatus, *arguments: str) -> Any:
        async def told(_self: object) -> JournalStatus:
            return status

        monkeypatch.setattr("tests.cli.conftest.Host.journal_status", told, raising=False)
        return cli("journal", "--socket", agent, *arguments)

    return ask


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_it_shows_what_waits_where_how_much_and_how_old(show: Any) -> None:
    assert lines(show(STATUS).out) == [
        "journal open  /var/lib/edgehost/journal.db  3 MiB  1 d 1 h of running time",
        "",
        "EVENTS OF  WAITING   SIZE      OLDEST",
        "pump/in      1,200  4 MiB  1 min 15 s",
        "4 MiB of 64 MiB ([journal] events)",
        "",
        "OUTPUT   STATE    WAITING      SIZE  OLDEST  STORED  LEFT",
        "pump/up  waiting       50  4.88 KiB     1 h      60    10",
        "rtd/up   direct         0         -       -       0     0",
        "4.88 KiB of 64 MiB ([journal] outbox)",
        "",
        "2 dead letters of at most 10,000; see `edgehost dead-letters list`",
        "",
        "WRITTEN BY  TODAY  7 DAYS",
        "journal     1 MiB   7 MiB",
    ]


def test_what_is_wrong_comes_first(show: Any) -> None:
    wrong = replace(
        STATUS,
        trouble="the journal cannot be written (disk full);\nmake room",
        refusal="the disk is nearly full",
        notes=["was damaged"],
    )
    assert lines(show(wrong).out)[1:4] == [
        "the journal cannot be written (disk full); make room",
        "the disk is nearly full",
        "was damaged",
    ]
    partly = lines(show(replace(STATUS, events=[], partly=True)).out)
    assert partly[1].startswith("what waits in it could not be read now") and "It is not known which events wait." in partly
    dropped = show(replace(STATUS, dead_letters=1, dead_letters_dropped=30)).out
    assert "1 dead letter of at most 10,000, 30 older ones were dropped; see" in dropped


def test_an_empty_one_says_so(show: Any) -> None:
    shown = show(JournalStatus("open", "/j/journal.db", 4096, 5.0)).out
    assert lines(shown) == [
        "journal open  /j/journal.db  4 KiB  5 s of running time",
        "",
        "No durable event waits.",
        "",
        "No message waits to leave.",
        "",
        "No dead letters.",
    ]


def test_one_that_nothing_needs_says_so(show: Any) -> None:
    assert lines(show(JournalStatus("unused", "/j/journal.db")).out) == [
        "journal unused  /j/journal.db",
        "",
        "Nothing needs it yet: no durable trigger, no `dedupe`, no output that can wait on disk.",
    ]


def test_json_has_every_field(show: Any) -> None:
    told = show(STATUS, "--json").json
    assert set(told) == set(JournalStatus.__struct_fields__)
    assert told["outbox"][0]["counts"] == {"stored": 60, "left": 10, "expired": 0}


def test_without_an_agent_it_says_where_to_read(cli: Any, tmp_path: Path) -> None:
    told = cli("journal", "--socket", tmp_path / "nobody.sock")
    assert told.code == 4 and "what an agent that has ended has left is read with --file" in told.err


async def write(path: Path) -> None:
    journal = Journal(path)
    await journal.open()
    events, parcels = await journal.queue("event", "pump", "in"), await journal.queue("parcel", "pump", "up")
    await journal.queue("parcel", "rtd", "up")
    received = ReceivedRow(journal.take_places("event", events), b"x" * 100, None, journal.now())
    stored = StoredRow(journal.take_places("parcel", parcels), "t", b"y" * 10, journal.now(), None)
    await journal.committed(Change(received=(received,), stored=(stored,)))
    await journal.close()


def test_a_file_is_read_without_an_agent(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    asyncio.run(write(path))
    shown = lines(cli("journal", "--file", path).out)
    assert shown[0].startswith(f"journal closed  {path}  ")
    assert "pump/in          1  100 bytes     0 s" in shown and "pump/up  waiting        1  10 bytes     0 s" in shown
    assert "No dead letters." in shown and not any("rtd" in line for line in shown)
    told = cli("journal", "--file", path, "--json").json
    assert told["events"][0]["count"] == 1 and told["written"][0]["component"] == "journal"
