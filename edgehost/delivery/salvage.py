"""Salvage: every row of a damaged journal that can still be read, copied into a new one. Knows tables and keys, no files.

    by SQLite     from the first row to the first page that cannot be read; nothing, if the first page of all is broken
    by pages      then every row on every page that belongs to the table, though the way from its first page there is broken;
                  of a page that is not whole itself only what SQLite, asked for its key, gives too

The tables of a new journal begin on the same pages as those of the damaged one, whatever was written to it: with auto_vacuum
SQLite keeps the first pages of all trees at the front of the file, in the order in which they were made. So nothing that the
damaged one says of its tables is needed.

A row whose values are not what its columns hold is left out. Must not know what the rows mean, but that places name their queue.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from typing import Any

from edgehost.delivery.pages import Pages
from edgehost.delivery.rows import first_place
from edgehost.delivery.schema import TABLES, columns_of
from edgehost.delivery.trees import Row, Trees

_PLACED = ("events", "outbox")
"""Tables whose rows lie together by their queue."""
_TYPES: dict[str, tuple[type, ...]] = {"INTEGER": (int,), "REAL": (float, int), "TEXT": (str,), "BLOB": (bytes,)}


def salvage(damaged: sqlite3.Connection, pages: Pages, fresh: sqlite3.Connection) -> dict[str, int]:
    """Copy every row that can be read, table by table; gives how many. `pages` are those of the same file.

    Raises sqlite3.Error only if `fresh` takes no more.
    """
    damaged.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    trees = Trees(pages)
    saved = {}
    for table in TABLES:
        fresh.execute("BEGIN")
        source = _Source(damaged, table, list(columns_of(fresh, table)))
        target = _Target(fresh, table)
        target.take(source.rows(), source)
        found = trees.rows(*_tree(fresh, table))
        target.take((row for row, whole in found if whole or source.confirms(row)), source)
        saved[table] = target.copied
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


def _tree(fresh: sqlite3.Connection, table: str) -> tuple[int, bool]:
    """The first page of a table, and whether its rows have a number."""
    about = "SELECT rootpage, sql NOT LIKE '%WITHOUT ROWID' FROM sqlite_master WHERE type = 'table' AND name = ?"
    first, numbered = fresh.execute(about, (table,)).fetchone()
    return first, bool(numbered)


def _readable(value: Any) -> Any:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value


def _sound(value: Any, types: tuple[type, ...]) -> bool:
    """Whether a column of these types can hold it. Whether it may be nothing the new table knows itself."""
    if value is None or not types:
        return True
    return isinstance(value, types) and not (isinstance(value, float) and not math.isfinite(value))


class _Target:
    """A table of the new journal. Rows of an older version lack the values of columns that a later step has added behind."""

    def __init__(self, fresh: sqlite3.Connection, table: str) -> None:
        columns = columns_of(fresh, table)
        self.copied = 0
        self._fresh = fresh
        self._table = table
        self._names = [f'"{name}"' for name in columns]
        self._types = [_TYPES.get(kind, ()) for kind in columns.values()]

    def take(self, rows: Iterable[Row], source: _Source) -> None:
        """Those of them that are sound."""
        for row in rows:
            values = tuple(map(_readable, row))
            if len(values) <= len(self._types) and all(map(_sound, values, self._types)):
                with suppress(sqlite3.IntegrityError, OverflowError):  # a value that a sound row cannot have
                    self._put(values, source)

    def _put(self, values: Row, source: _Source) -> None:
        listed = ", ".join(self._names[: len(values)])
        insert = f"INTO {self._table} ({listed}) VALUES ({', '.join('?' * len(values))})"
        if self._fresh.execute(f"INSERT OR IGNORE {insert}", values).rowcount:
            self.copied += 1
            return
        held = f"SELECT {listed} FROM {self._table} WHERE {self._names[0]} = ?"
        if self._fresh.execute(held, values[:1]).fetchone() != values and source.confirms(values):
            # A broken row may bear the key of a sound one: SQLite's own choice counts.
            self._fresh.execute(f"INSERT OR REPLACE {insert}", values)


class _Source:
    """The same table of the damaged journal, as SQLite reads it."""

    def __init__(self, damaged: sqlite3.Connection, table: str, expected: list[str]) -> None:
        self._damaged = damaged
        there: dict[str, str] = {}
        with suppress(sqlite3.Error, UnicodeError):
            there = columns_of(damaged, table)
        names = [f'"{name}"' for name in takewhile(there.__contains__, expected)]
        self._select = f"SELECT {', '.join(names)} FROM {table}" if names else ""
        self._key = names[0] if names else ""

    def rows(self) -> Iterator[Row]:
        """Those before the first error."""
        if self._select:
            yield from self._read(self._select)

    def confirms(self, row: Row) -> bool:
        """Whether it is the one that SQLite finds by this key."""
        if not self._select:
            return False
        found = next(self._read(f"{self._select} WHERE {self._key} = ?", row[0]), ())
        return tuple(map(_readable, found))[: len(row)] == tuple(map(_readable, row))

    def _read(self, statement: str, *values: Any) -> Iterator[Row]:
        with suppress(sqlite3.Error, UnicodeError, OverflowError):
            yield from self._damaged.execute(statement, values)
