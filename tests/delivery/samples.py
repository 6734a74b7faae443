"""Rows for every table of the journal, and ways to spoil its file: what the tests of the journal share."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from edgehost.delivery.clock import Mark
from edgehost.delivery.recovery import open_journal
from edgehost.delivery.rows import AnsweredRow, Change, DeadRow, ReceivedRow, StoredRow, first_place
from edgehost.delivery.schema import TABLES
from edgehost.delivery.transaction import apply
from edgehost.event import Event, Response
from edgehost.parcel import Parcel

encode = msgspec.msgpack.encode
PAGE = 4096


def received(number: int, queue: int = 1, body: bytes = b"", key: str | None = None, attempts: int = 0) -> ReceivedRow:
    event = Event(body or b"%d" % number, id=f"e{number}")
    return ReceivedRow(first_place(queue) + number, encode(event), key, float(number), attempts)


def stored(number: int, queue: int = 2, body: bytes = b"") -> StoredRow:
    return StoredRow(first_place(queue) + number, "up", encode(Parcel("up", body or b"%d" % number)), float(number), None)


def dead(number: int) -> DeadRow:
    body = encode(Event(b"%d" % number))
    return DeadRow("f", "in", "", f"e{number}", "raised", "no " * 20, 3, 0.0, 0.0, float(number), body)


def answered(key: str, until: float = 1e6) -> AnsweredRow:
    return AnsweredRow(key, until, encode(Response(body=key.encode() * 3)))


def fill(path: Path, count: int = 300) -> None:
    """A journal with rows in all tables, many of them large enough for a page of their own, closed as an agent closes it."""
    connection, _ = open_journal(path, False)
    choose = random.Random(7)
    with closing(connection):
        connection.execute("INSERT INTO queues VALUES (1, 'event', 'f', 'in'), (2, 'parcel', 'f', 'up'), (3, 'event', 'g', 'in')")
        sizes = [choose.choice((20, 300, 3000, 9000)) for _ in range(count)]
        rows = [received(n, 1 + 2 * (n % 2), choose.randbytes(size), f"1/{n:06}") for n, size in enumerate(sizes)]
        change = Change(
            received=tuple(rows),
            stored=tuple(stored(n, body=choose.randbytes(size)) for n, size in enumerate(sizes)),
            answered=tuple(answered(f"1/{choose.randbytes(8).hex()}") for _ in range(count)),
            dead=tuple(dead(n) for n in range(count)),
        )
        apply(connection, [change])
        jobs = [(f"j{n}", "update", n, "accepted", b"r" * 200, b"s", 0.0) for n in range(60)]
        connection.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", jobs)
        connection.executemany("INSERT INTO written VALUES (?, 'journal', ?)", [(day, day) for day in range(60)])
        connection.execute("INSERT INTO meta VALUES ('clock', ?)", (msgspec.json.encode(Mark("boot", 5.0, 500.0)),))


def contents(path: Path) -> dict[str, dict[Any, tuple[Any, ...]]]:
    """Every row of every table of a sound journal, by its key."""
    with closing(sqlite3.connect(path)) as connection:
        return {table: {row[0]: row for row in connection.execute(f"SELECT * FROM {table}")} for table in TABLES}


def readable(path: Path, whole: dict[str, dict[Any, tuple[Any, ...]]]) -> dict[str, set[Any]]:
    """The keys of the rows that SQLite still gives, unchanged, when it is asked for each by its key."""
    found: dict[str, set[Any]] = {}
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for table, rows in whole.items():
            key = {"written": "day", "queues": "id", "dead": "number", "answered": "key", "meta": "key", "jobs": "id"}.get(
                table, "place"
            )
            found[table] = {each for each, row in rows.items() if _ask(connection, table, key, each) == row}
    return found


def _ask(connection: sqlite3.Connection, table: str, key: str, value: Any) -> Any:
    try:
        return connection.execute(f"SELECT * FROM {table} WHERE {key} = ?", (value,)).fetchone()
    except sqlite3.Error:
        return None


def spoiled(data: bytes, pages: list[int], choose: random.Random) -> bytes:
    """Random bytes flipped in these pages, from one to a whole page of them."""
    spoilt = bytearray(data)
    for page in pages:
        start = page * PAGE
        if choose.random() < 0.3:
            spoilt[start : start + PAGE] = choose.randbytes(PAGE)
        else:
            for _ in range(choose.choice((1, 8, 200))):
                spoilt[start + choose.randrange(PAGE)] ^= 1 << choose.randrange(8)
    return bytes(spoilt)


def page_sets(count: int, choose: random.Random) -> Iterator[list[int]]:
    """Each page alone, then several at once."""
    yield from ([page] for page in range(count))
    for _ in range(40):
        yield choose.sample(range(1, count), choose.randint(2, min(12, count - 1)))
