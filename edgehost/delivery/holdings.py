"""Holdings: what a journal has in it when it is opened, and the few rows by which it knows itself. SQL, in the journal's thread.

A value that cannot be read (a damaged byte is no damaged page) counts as not there. Must not know who asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from edgehost.delivery.clock import Mark
from edgehost.delivery.rows import Totals, first_place

if TYPE_CHECKING:
    import sqlite3

Key = tuple[str, str, str]
"""Of a queue: `event` or `parcel`, function, and trigger or output."""
Days = dict[str, dict[int, int]]

_YEAR_S = 366 * 86400


def holdings(connection: sqlite3.Connection) -> tuple[Mark, Totals, Days]:
    """Where the clock stood, at least; what waits; what has been written, by component and day."""
    queues = connection.execute("SELECT kind, function, name, id FROM queues").fetchall()
    nexts: dict[str, dict[int, int]] = {"events": {}, "outbox": {}}
    sizes: dict[int, tuple[int, int]] = {}
    newest = [_newest(connection, "dead", "number", 0, first_place(1))[1]]
    for _, _, _, number in queues:
        first, end = first_place(number), first_place(number + 1)
        for table, of in nexts.items():
            last, at = _newest(connection, table, "place", first, end)
            newest.append(at)
            if last >= first:
                of[number] = last + 1
        count, size = connection.execute(
            "SELECT count(*), ifnull(sum(length(event)), 0) FROM events WHERE place >= ? AND place < ?", (first, end)
        ).fetchone()
        sizes[number] = (count, size)
    (dead,) = connection.execute("SELECT count(*) FROM dead").fetchone()
    totals = Totals(
        sources={(function, name): number for kind, function, name, number in queues if kind == "event"},
        lanes={(function, name): number for kind, function, name, number in queues if kind == "parcel"},
        next_numbers=nexts,
        event_bytes=sizes,
        dead=dead,
        notes=[],
    )
    return _further(_mark(connection), newest), totals, _written(connection)


def _newest(connection: sqlite3.Connection, table: str, key: str, first: int, end: int) -> tuple[int, float]:
    """The last row's key, and when it came: it was written after the last mark, perhaps."""
    select = f"SELECT {key}, at FROM {table} WHERE {key} >= ? AND {key} < ? ORDER BY {key} DESC LIMIT 1"
    row = connection.execute(select, (first, end)).fetchone()
    if row is None:
        return -1, 0.0
    return row[0], row[1] if isinstance(row[1], float) and math.isfinite(row[1]) else 0.0


def _further(mark: Mark, newest: list[float]) -> Mark:
    """The clock had gone on since its mark if a row says so; one that says more than a year is damaged."""
    believed = [at for at in newest if not mark.now_s or at < mark.now_s + _YEAR_S]
    return mark.at_least(max(believed, default=0.0))


def _mark(connection: sqlite3.Connection) -> Mark:
    row = connection.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
    try:
        return msgspec.json.decode(row[0], type=Mark) if row is not None else Mark()
    except (msgspec.MsgspecError, TypeError, ValueError):
        return Mark()


def _written(connection: sqlite3.Connection) -> Days:
    written: Days = {}
    for day, component, count in connection.execute("SELECT day, component, bytes FROM written"):
        if isinstance(day, int) and isinstance(count, int):
            written.setdefault(str(component), {})[day] = count
    return written


def queue_number(connection: sqlite3.Connection, key: Key) -> int:
    """The number of a queue, given now if it has none."""
    connection.execute("INSERT OR IGNORE INTO queues (kind, function, name) VALUES (?, ?, ?)", key)
    (number,) = connection.execute("SELECT id FROM queues WHERE kind = ? AND function = ? AND name = ?", key).fetchone()
    return int(number)


def put_queues(connection: sqlite3.Connection, numbers: Iterable[tuple[Key, int]]) -> None:
    """These numbers are taken, and whose they are is known: a damaged file may have lost it."""
    rows = [(number, *key) for key, number in numbers]
    connection.executemany("INSERT OR REPLACE INTO queues (id, kind, function, name) VALUES (?, ?, ?, ?)", rows)


def put_mark(connection: sqlite3.Connection, mark: Mark, written: Mapping[str, Mapping[int, int]]) -> None:
    """Where the clock stands, and what has been written."""
    rows = [(day, component, count) for component, days in written.items() for day, count in days.items()]
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('clock', ?)", (msgspec.json.encode(mark),))
    connection.execute("DELETE FROM written")
    connection.executemany("INSERT INTO written VALUES (?, ?, ?)", rows)
