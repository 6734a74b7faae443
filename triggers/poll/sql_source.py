"""Rows of a query, from an SQLite file or through another DB-API 2.0 module (PEP 249).

A connection for each read: a file that was replaced, deleted or locked meanwhile is then no special case. SQLite files are opened
read-only, so no query writes; a query that goes on too long is interrupted. Knows nothing of what is new in the rows.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from edgehost.errors import TriggerError
from edgehost.polling import pick
from edgehost.triggers.poll.source import Around

_BUSY_S = 5.0
"""How long SQLite waits for a lock of another process; within the time-out of the read."""


class SqlSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`sql = { … }` of a poll."""

    database: Annotated[str, Meta(min_length=1)]
    """An SQLite file; what `driver`'s connect() takes, with another driver."""
    query: Annotated[str, Meta(min_length=1)]
    """One SELECT. `:cursor` in it stands for where the last read ended."""
    driver: str = "sqlite3"

    def __post_init__(self) -> None:
        if self.driver != "sqlite3" and not all(part.isidentifier() for part in self.driver.split(".")):
            raise ValueError(f"driver: {self.driver!r} is not the name of a Python module; use sqlite3, psycopg or another one")

    @property
    def asks_by_cursor(self) -> bool:
        return ":cursor" in self.query


class SqlSource:
    """See source.py, Source."""

    def __init__(self, settings: SqlSettings, around: Around) -> None:
        self._settings = settings
        self._around = around
        self._file = around.folder / Path(settings.database).expanduser()
        self.url = self._file.as_uri() if settings.driver == "sqlite3" else settings.driver
        self._interrupted = False
        self._connection: Any = None

    def read(self, cursor: int | float | str) -> list[Any]:
        """Every row of the query as an object of its columns."""
        self._interrupted = False
        driver = self._driver()
        try:
            with closing(self._connect(driver)) as self._connection:
                rows = self._rows(self._connection, driver.paramstyle, cursor)
        except driver.Error as error:
            raise TriggerError(self._reason(error)) from error
        finally:
            self._connection = None
        return rows if len(rows) <= self._around.max_records else self._page(rows)

    def interrupt(self) -> None:
        self._interrupted = True  # SQLite looks at it as it works
        cancel = getattr(self._connection, "cancel", None)  # psycopg, among others
        if cancel is not None:
            cancel()

    def _driver(self) -> Any:
        try:
            return import_module(self._settings.driver)
        except ImportError as error:
            raise TriggerError(f"driver {self._settings.driver!r} cannot be loaded: {error}; install its package") from error

    def _connect(self, driver: Any) -> Any:
        if driver is not sqlite3:
            return driver.connect(self._settings.database)
        if not self._file.is_file():
            raise TriggerError(f"there is no database {self._file}; check the path, it is read as soon as it is there")
        busy_s = min(_BUSY_S, self._around.timeout_s / 2)
        connection = sqlite3.connect(f"file:{quote(str(self._file))}?mode=ro", busy_s, uri=True)
        connection.set_progress_handler(lambda: self._interrupted, 10_000)
        return connection

    def _rows(self, connection: Any, style: str, cursor: int | float | str) -> list[Any]:
        found = connection.cursor()
        if self._settings.asks_by_cursor:
            found.execute(*bound(self._settings.query, style, cursor))
        else:
            found.execute(self._settings.query)
        if found.description is None:
            raise TriggerError("the query brings no rows; use a SELECT")
        names = [column[0] for column in found.description]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise TriggerError(f"the query has two columns {twice!r}; name one of them otherwise with AS")
        return [msgspec.to_builtins(dict(zip(names, row, strict=True))) for row in found.fetchmany(self._around.max_records + 1)]

    def _page(self, rows: list[Any]) -> list[Any]:
        """As many rows as a read may bring, up to where the cursor's value changes: the next read begins behind it."""
        most, field = self._around.max_records, self._around.cursor
        if not field or not self._settings.asks_by_cursor:
            raise TriggerError(
                f"the query brings more than {most} rows; add a LIMIT, or a cursor to read on from, or raise max_records"
            )
        try:
            places = [pick(row, field) for row in rows]
            ascending = places == sorted(places)
        except (ValueError, TypeError) as error:
            raise TriggerError(f"the cursor {field!r} does not tell the order of the rows: {error}") from error
        if not ascending:
            raise TriggerError(f"the query brings more than {most} rows, not in order of the cursor; add ORDER BY {field}")
        page = [row for row, place in zip(rows, places, strict=True) if place < places[-1]]
        if not page:
            raise TriggerError(f"more than {most} rows have {field} = {places[-1]!r}; raise max_records")
        return page

    def _reason(self, error: Exception) -> str:
        if self._interrupted:
            return f"the query took longer than {self._around.timeout_s:g} s; make it quicker (an index?), or raise timeout"
        if self._settings.driver == "sqlite3" and "readonly" in str(error) and Path(f"{self._file}-journal").exists():
            return (
                f"{self._file} was left in the middle of a transaction (a crash, a power cut), which reading alone cannot undo; "
                "let the program that writes it open it, then it is read"
            )
        return f"the query failed: {' '.join(str(error).split())}"


def bound(query: str, style: str, cursor: int | float | str) -> tuple[str, Any]:
    """A query and its parameters, in one of the five styles of PEP 249."""
    if style == "named":
        return query, {"cursor": cursor}
    marks = {"qmark": "?", "numeric": ":1", "format": "%s", "pyformat": "%(cursor)s"}
    if style in ("format", "pyformat"):
        query = query.replace("%", "%%")
    query, count = re.subn(r"(?<!:):cursor\b", marks[style], query)
    return query, {"cursor": cursor} if style == "pyformat" else (cursor,) * (1 if style == "numeric" else count)
