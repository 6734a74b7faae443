"""Salvage: every row of a damaged journal that SQLite can still read, copied into a new one. Knows tables and keys, no files.

    whole        if it can be read from end to end, that is all; else
    forward      from the first key, and the first of each queue, to the first page that cannot be read
    behind       from there on key by key, then in growing strides, to the next page that can; so on to the end
    backward     what a stride has jumped over
    singly       what is missing between the keys that were found
    by halves    the same for keys that are texts: between two of them there is always another one

A row whose values are not what its columns hold is left out. Must not know what the rows mean, but that places name their queue.
"""

from __future__ import annotations

import math
import sqlite3
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

from edgehost.delivery.rows import first_place
from edgehost.delivery.schema import TABLES, columns_of

Row = tuple[Any, ...]

_PLACED = ("events", "outbox")
"""Tables whose rows lie together by their queue. A first column that is a number says in all tables where a row lies."""
_NEAR = 4096
"""Behind what cannot be read so many keys are tried one by one: more rows than any page holds, or several in a row."""
_MOST_STRIDES = 40
_MOST_POINTS = 20_000
_BEYOND = 512
_MOST_PROBES = 200_000
_END = 1 << 62
_MOST_HALVES = 2048
_UNKNOWN_QUEUES = 16
"""Queues to look for beyond the highest known: their names may be lost."""
_TYPES: dict[str, tuple[type, ...]] = {"INTEGER": (int,), "REAL": (float, int), "TEXT": (str,), "BLOB": (bytes,)}


def salvage(damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> dict[str, int]:
    """Copy every row that can be read, table by table; gives how many. Raises sqlite3.Error only if `fresh` takes no more."""
    damaged.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    saved = {}
    for table in TABLES:
        fresh.execute("BEGIN")
        saved[table] = _copy(table, damaged, fresh)
        fresh.execute("COMMIT")
    return saved


def hold_numbers(fresh: sqlite3.Connection) -> list[int]:
    """Queues whose rows were saved and whose names were not: their numbers must never be given to others."""
    used: set[int] = set()
    for table in _PLACED:
        place = 0
        while row := fresh.execute(f"SELECT min(place) FROM {table} WHERE place >= ?", (place,)).fetchone():
            if row[0] is None:
                break
            used.add(queue := row[0] // first_place(1))
            place = first_place(queue + 1)
    lost = sorted(used.difference(number for (number,) in fresh.execute("SELECT id FROM queues")))
    rows = [(number, f"queue {number}") for number in lost]
    fresh.executemany("INSERT INTO queues (id, kind, function, name) VALUES (?, 'lost', '', ?)", rows)
    return lost


def _copy(table: str, damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> int:
    expected = columns_of(fresh, table)
    try:
        there = columns_of(damaged, table)
    except sqlite3.Error:
        return 0
    names = [name for name in expected if name in there]  # those of an older version lack what a later step has added
    if not names or names[0] != next(iter(expected)):
        return 0
    listed = ", ".join(f'"{name}"' for name in names)
    source = _Source(damaged, f"SELECT {listed} FROM {table}", f'"{names[0]}"')
    target = _Target(fresh, table, names, [_TYPES.get(expected[name], ()) for name in names])
    if expected[names[0]] != "INTEGER":
        target.take(source.named(), source)
        return target.copied
    starts = _starts(table, fresh)
    target.take(source.numbered(starts), source)
    if source.broken:
        target.take(source.singly(_starts(table, fresh, 1), target.keys()), source)
    return target.copied


def _readable(value: Any) -> Any:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value


def _sound(value: Any, types: tuple[type, ...]) -> bool:
    """Whether a column of these types can hold it. Whether it may be nothing the new table knows itself."""
    if value is None or not types:
        return True
    return isinstance(value, types) and not (isinstance(value, float) and not math.isfinite(value))


def _starts(table: str, fresh: sqlite3.Connection, beyond: int = _UNKNOWN_QUEUES) -> list[int]:
    """Where a numbered table's rows may begin: events and messages at one key for each queue, whose numbers are known first."""
    if table not in _PLACED:
        return [-1]
    (most,) = fresh.execute("SELECT ifnull(max(id), 0) FROM queues WHERE id < 1 << 22").fetchone()
    return [-1, *map(first_place, range(1, most + beyond))]


class _Target:
    """The same table of the new journal."""

    def __init__(self, fresh: sqlite3.Connection, table: str, names: list[str], types: list[tuple[type, ...]]) -> None:
        listed = ", ".join(f'"{name}"' for name in names)
        self.copied = 0
        self._fresh = fresh
        self._types = types
        self._keys = f'SELECT "{names[0]}" FROM {table}'
        self._held = f'SELECT {listed} FROM {table} WHERE "{names[0]}" = ?'
        self._insert = f"INSERT OR IGNORE INTO {table} ({listed}) VALUES ({', '.join('?' * len(names))})"

    def keys(self) -> set[Any]:
        """Of the rows it has."""
        return {key for (key,) in self._fresh.execute(self._keys)}

    def take(self, rows: Iterator[Row], source: _Source) -> None:
        """Those of them that are sound."""
        for row in rows:
            values = tuple(map(_readable, row))
            if all(map(_sound, values, self._types)):
                try:
                    self._put(values, row[0], source)
                except (sqlite3.IntegrityError, OverflowError):
                    continue  # a value that a sound row cannot have

    def _put(self, values: Row, key: Any, source: _Source) -> None:
        if self._fresh.execute(self._insert, values).rowcount:
            self.copied += 1
        elif self._fresh.execute(self._held, values[:1]).fetchone() != values and values == source.at(key):
            # A broken row may bear the key of a sound one: SQLite's own choice counts.
            self._fresh.execute(self._insert.replace("IGNORE", "REPLACE", 1), values)


class _Source:
    """One damaged table. A row may be given twice, never too seldom."""

    def __init__(self, connection: sqlite3.Connection, select: str, key: str) -> None:
        self._connection = connection
        self._all = select
        self._up = f"{select} WHERE {key} >= ? ORDER BY {key}"
        self._down = f"{select} WHERE {key} >= ? AND {key} < ? ORDER BY {key} DESC"
        self._up_text = f"{select} WHERE {key} >= CAST(? AS TEXT) AND {key} < CAST(? AS TEXT) ORDER BY {key}"
        self._whole = False
        """Whether the last reading came to its end."""
        self.broken = False
        """Whether any did not."""
        self._holes: set[int] = set()

    def numbered(self, starts: list[int]) -> Iterator[Row]:
        """Of a table whose keys are numbers; `starts` are keys at which more of them may begin."""
        yield from self._read(self._all)
        if self._whole:
            return
        points, seen, covered = deque(starts), set[int](), _END
        while points and len(seen) < _MOST_POINTS:
            at = points.popleft()
            if at in seen or at >= covered:
                continue
            seen.add(at)
            last = before = at - 1
            for row in self._read(self._up, at):
                before, last = (last, row[0]) if isinstance(row[0], int) else (before, last)
                yield row
            if self._whole:
                covered = at
            else:
                for hole in (last + 1, before + 1):  # the last key may itself be broken, and lead astray
                    points += yield from self._behind(hole)

    def _behind(self, hole: int) -> Generator[Row, None, list[int]]:
        """What can be read again behind a hole; gives the keys from which to read on, if there are any."""
        if hole in self._holes:
            return []
        self._holes.add(hole)
        for key in (*range(hole, hole + _NEAR), *(hole + (_NEAR << power) for power in range(_MOST_STRIDES))):
            rows = list(self._read(f"{self._up} LIMIT 1", key))
            if self._whole:
                yield from rows
                yield from self._read(self._down, hole - 1, key)
                return [key + 1, *(row[0] + 1 for row in rows if isinstance(row[0], int))] if rows else []
        yield from self._read(self._down, hole, _END)
        return []

    def singly(self, starts: list[int], known: set[int]) -> Iterator[Row]:
        """Each key that is missing between those known and a little beyond: one by one they may be found where the way along
        them is broken."""
        left = _MOST_PROBES
        for start in starts:
            last = max((key for key in known if start <= key < start + first_place(1)), default=start)
            for key in range(start, min(last + _BEYOND, start + left)):
                if key not in known:
                    left -= 1
                    yield from (row for row in self._read(f"{self._up} LIMIT 1", key) if row[0] == key)

    def at(self, key: Any) -> Row | None:
        """The row that SQLite gives for this key."""
        rows = list(self._read(f"{self._up} LIMIT 1", key))
        return tuple(map(_readable, rows[0])) if rows else None

    def named(self) -> Iterator[Row]:
        """Of a table whose keys are texts."""
        yield from self._read(self._all)
        if self._whole:
            return
        gaps = deque([(b"", b"\xff")])
        for _ in range(_MOST_HALVES):
            if not gaps:
                return
            low, high = gaps.popleft()
            for statement in (self._up_text, f"{self._up_text} LIMIT 1"):  # the second for what _read says of a row
                for row in self._read(statement, low, high):
                    low = _key(row) + b"\0"
                    yield row
                if self._whole and "LIMIT" not in statement:
                    high = low
            for row in self._read(f"{self._up_text} DESC", low, high):
                high = _key(row)
                yield row
            if (middle := _between(low, high)) is not None:
                gaps += [(low, middle), (middle, high)]

    def _read(self, statement: str, *values: Any) -> Iterator[Row]:
        """Rows up to the first error; the last one before it is lost, for Python's sqlite3 looks ahead."""
        try:
            yield from self._connection.execute(statement, values)
        except (sqlite3.Error, UnicodeError, OverflowError):
            self._whole, self.broken = False, True
        else:
            self._whole = True


def _key(row: Row) -> bytes:
    return str(row[0]).encode("utf-8", "surrogateescape")


def _between(low: bytes, high: bytes) -> bytes | None:
    """A key half way from one to the other, as SQLite compares them; None if they are next to each other."""
    size = max(len(low), len(high)) + 1
    if size > 256:
        return None
    first, last = int.from_bytes(low.ljust(size, b"\0"), "big"), int.from_bytes(high.ljust(size, b"\0"), "big")
    middle = (first + last) // 2
    return middle.to_bytes(size, "big").rstrip(b"\0") if first < middle < last else None
