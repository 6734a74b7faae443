"""Salvage without SQLite's help: the first page, which names all tables, is broken, or a page between it and the rows is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgehost.delivery import recovery, schema
from edgehost.delivery.pages import Pages
from edgehost.delivery.recovery import open_journal
from edgehost.delivery.trees import Trees
from tests.delivery.samples import PAGE, contents

Contents = dict[str, dict[Any, tuple[Any, ...]]]
FIRST_PAGES = {
    "zeros": bytes(PAGE),
    "garbage": bytes(range(256)) * (PAGE // 256),
    "its header zeros": bytes(100),
    "its header garbage": b"\xa5" * 100,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def mended(path: Path, data: bytes, log: bytes = b"") -> tuple[Contents, str]:
    """What is saved of it, and the note."""
    path.write_bytes(data)
    if log:
        path.with_name("journal.db-wal").write_bytes(log)
    connection, notes = open_journal(path, True)
    connection.close()
    assert "set aside as journal.db.damaged-1" in notes[0]
    return contents(path), notes[0]


def with_pages(data: bytes, pages: dict[int, bytes]) -> bytes:
    """Others written over these; pages are counted from 1."""
    spoilt = bytearray(data)
    for number, page in pages.items():
        spoilt[(number - 1) * PAGE : (number - 1) * PAGE + len(page)] = page
    return bytes(spoilt)


def first_pages(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, rootpage FROM sqlite_master ORDER BY rootpage"))


@pytest.mark.parametrize("page", FIRST_PAGES.values(), ids=FIRST_PAGES)
def test_a_broken_first_page_costs_no_row_and_the_damaged_file_stays_as_it_was(sound: Path, path: Path, page: bytes) -> None:
    data = with_pages(sound.read_bytes(), {1: page})
    saved, note = mended(path, data)
    assert saved == contents(sound)
    assert f"{len(saved['events'])} events" in note
    assert path.with_name("journal.db.damaged-1").read_bytes() == data


def in_use(sound: Path, path: Path) -> tuple[bytes, bytes, Contents]:
    """A file and its log, as a power cut leaves them, and what they hold together. The log has no first page."""
    path.write_bytes(sound.read_bytes())
    connection, _ = open_journal(path, True)
    with closing(connection):
        for number in (8, 9):  # the second time no row becomes longer
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.execute("UPDATE events SET attempts = ?", (number,))
            connection.execute("UPDATE outbox SET packet_id = ?", (number,))
        data, log = path.read_bytes(), path.with_name("journal.db-wal").read_bytes()
    whole = contents(path)
    path.unlink()
    numbers = {int.from_bytes(log[at : at + 4], "big") for at in range(32, len(log), PAGE + 24)}
    assert len(numbers) > 10
    assert 1 not in numbers
    return data, log, whole


@pytest.mark.parametrize("page", FIRST_PAGES.values(), ids=FIRST_PAGES)
def test_what_is_in_the_log_alone_is_saved_too(sound: Path, path: Path, page: bytes) -> None:
    data, log, whole = in_use(sound, path)
    assert mended(path, with_pages(data, {1: page}), log)[0] == whole


def test_a_log_is_read_up_to_its_last_commit_and_its_first_broken_frame(sound: Path, path: Path) -> None:
    data, log, _ = in_use(sound, path)
    path.write_bytes(data)
    logfile = path.with_name("journal.db-wal")
    count, last = len(data) // PAGE, (len(log) - 32) // (PAGE + 24)
    commits = [n for n in range(last) if log[32 + n * (PAGE + 24) + 4 :][:4] != bytes(4)]
    for broken in (None, last - 1, commits[0] + 1, 0):
        spoilt = bytearray(log)
        if broken is not None:
            spoilt[32 + broken * (PAGE + 24) + 500] ^= 1
        logfile.write_bytes(spoilt)
        end = max((n + 1 for n in commits if broken is None or n < broken), default=0)
        expected = {
            int.from_bytes(log[at : at + 4], "big"): log[at + 24 : at + 24 + PAGE]
            for at in range(32, 32 + end * (PAGE + 24), PAGE + 24)
        }
        with closing(Pages(path)) as pages:
            assert pages.count == count
            for number in range(1, count + 1):
                assert pages[number] == expected.get(number, data[(number - 1) * PAGE : number * PAGE])
            assert pages[0] == pages[count + 1] == b""


def test_a_broken_page_on_the_way_costs_no_row_of_a_table_with_numbers(sound: Path, path: Path) -> None:
    firsts = first_pages(sound)
    saved, _ = mended(path, with_pages(sound.read_bytes(), {firsts[t]: bytes(PAGE) for t in ("events", "outbox", "dead")}))
    assert saved == contents(sound)


def test_a_broken_map_costs_no_row(sound: Path, path: Path) -> None:
    assert mended(path, with_pages(sound.read_bytes(), {1: bytes(PAGE), 2: b"\xff" * PAGE}))[0] == contents(sound)


def test_a_file_that_is_cut_off_gives_what_lies_before(sound: Path, path: Path) -> None:
    whole, data = contents(sound), sound.read_bytes()
    saved, _ = mended(path, data[: len(data) // 2 // PAGE * PAGE + 1000])
    assert sum(map(len, saved.values())) > sum(map(len, whole.values())) // 4
    assert all(row == whole[table].get(key) for table, rows in saved.items() for key, row in rows.items() if table != "written")


def test_pages_behind_the_end_of_the_database_are_out_of_date(sound: Path, path: Path) -> None:
    """As a crash leaves them when pages have been given back and the file has not been cut yet."""
    path.write_bytes(sound.read_bytes())
    before = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DELETE FROM events WHERE place >= 3 << 40; PRAGMA incremental_vacuum; DELETE FROM jobs")
    data, whole = path.read_bytes(), contents(path)
    assert len(before) - len(data) > 20 * PAGE
    first = first_pages(path)["outbox"]
    assert mended(path, with_pages(data + before[len(data) :], {first: bytes(PAGE)}))[0] == whole


def test_a_broken_number_of_pages_costs_no_row(sound: Path, path: Path) -> None:
    data = bytearray(sound.read_bytes())
    data[28:32] = bytes([0, 0, 0, 1])
    assert mended(path, bytes(data))[0] == contents(sound)


def test_a_page_that_the_map_calls_free_is_nobodys_though_a_broken_one_names_it(sound: Path, path: Path) -> None:
    before, first = sound.read_bytes(), first_pages(sound)["outbox"]
    path.write_bytes(before)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DELETE FROM outbox WHERE place % 90 > 10")
    data, whole = path.read_bytes(), contents(path)
    old = {n: before[(n - 1) * PAGE : n * PAGE] for n in range(3, len(data) // PAGE) if data[PAGE + 5 * (n - 3)] == 2}
    free = [n for n, page in old.items() if page[0] == 13 and int.from_bytes(page[3:5], "big")]
    page = bytearray(before[(first - 1) * PAGE : first * PAGE])
    assert page[0] == 5
    assert free, "no page with rows became free"
    page[8:12] = free[0].to_bytes(4, "big")
    assert mended(path, with_pages(data, {**old, 1: bytes(PAGE), first: bytes(page)}))[0] == whole


def test_rows_of_a_broken_page_count_only_if_sqlite_finds_them(sound: Path, path: Path) -> None:
    """One byte in the room between its rows tells that a page is broken; which of its rows are, nobody can say."""
    data, whole, first = sound.read_bytes(), contents(sound), first_pages(sound)["queues"]
    page = bytearray(data[(first - 1) * PAGE : first * PAGE])
    page[7] += 1
    assert mended(path, with_pages(data, {first: bytes(page), first_pages(sound)["events"]: bytes(PAGE)}))[0] == whole
    path.with_name("journal.db.damaged-1").unlink()
    saved, note = mended(path, with_pages(data, {1: bytes(PAGE), first: bytes(page)}))
    assert {row[1] for row in saved["queues"].values()} == {"lost"}
    assert "3 of its queues" in note
    assert saved["events"] == whole["events"]


@pytest.mark.parametrize("added", ["ALTER TABLE events ADD COLUMN note TEXT", "CREATE TABLE more (a INTEGER PRIMARY KEY)"])
def test_the_version_before_is_saved_into_this_one(sound: Path, path: Path, monkeypatch: pytest.MonkeyPatch, added: str) -> None:
    whole = contents(sound)
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS, added))
    saved, _ = mended(path, with_pages(sound.read_bytes(), {1: bytes(PAGE)}))
    assert {key: row[:5] for key, row in saved["events"].items()} == whole["events"]
    assert saved["dead"] == whole["dead"]


def test_a_table_that_the_version_before_had_not_is_not_read_from_what_lies_there(sound: Path) -> None:
    data, firsts = sound.read_bytes(), first_pages(sound)
    leaves = [n for n in range(max(firsts.values()) + 1, len(data) // PAGE) if data[(n - 1) * PAGE] == 13]
    with closing(Pages(sound)) as pages:
        trees = Trees(pages)
        assert list(trees.rows(firsts["events"], True))
        assert leaves
        for number in (*leaves, len(data) // PAGE + 1):
            assert list(trees.rows(number, True)) == []


def test_what_leads_in_a_circle_comes_to_an_end(sound: Path, path: Path) -> None:
    """A page of the way names itself, and a row of 4 TB goes on in a page that goes on in itself."""
    data, whole, firsts = sound.read_bytes(), contents(sound), first_pages(sound)
    page = bytearray(data[(firsts["events"] - 1) * PAGE : firsts["events"] * PAGE])
    assert page[0] == 5
    page[8:12] = firsts["events"].to_bytes(4, "big")
    size, last = 489 + 4092 * 10**9, len(data) // PAGE
    row = bytes(0x80 * (n > 0) | size >> 7 * n & 0x7F for n in range(6, -1, -1)) + bytes(489) + last.to_bytes(4, "big")
    meta = bytes([10, 0, 0, 0, 1, *(PAGE - len(row)).to_bytes(2, "big"), 0, *(PAGE - len(row)).to_bytes(2, "big")])
    meta = meta.ljust(PAGE - len(row), b"\0") + row
    pages = {1: bytes(PAGE), 2: bytes(PAGE), firsts["events"]: bytes(page), firsts["meta"]: meta}
    saved, _ = mended(path, with_pages(data, {**pages, last: last.to_bytes(4, "big")}))
    assert 0 < len(saved["events"]) < len(whole["events"])
    assert saved["meta"] == {}


def test_a_disk_that_cannot_read_a_page_costs_that_page(sound: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, real = with_pages(sound.read_bytes(), {1: bytes(PAGE)}), recovery.os.pread
    broken = first_pages(sound)["events"]

    def pread(descriptor: int, size: int, place: int) -> bytes:
        if place == (broken - 1) * PAGE:
            raise OSError(5, "Input/output error")
        return real(descriptor, size, place)

    monkeypatch.setattr("edgehost.delivery.pages.os.pread", pread)
    assert mended(path, data)[0] == contents(sound)


@pytest.mark.parametrize("left", range(1, 13))
def test_a_file_that_ends_in_the_head_of_a_page_is_mended(sound: Path, path: Path, left: int) -> None:
    data = sound.read_bytes()
    leaves = [place for place in range(PAGE, len(data), PAGE) if data[place] == 13]
    assert leaves
    for place in leaves[-4:]:
        for each in path.parent.glob("journal.db*"):
            each.unlink()
        saved, _ = mended(path, data[: place + left])
        assert sum(map(len, saved.values()))
