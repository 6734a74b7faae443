"""Spare room inside the journal's file: what deletions have freed there, and how the file system gets it back. Pure SQL.

SQLite keeps freed pages for later rows. They count for nothing on a disk that is full of other things, so they are given back,
in steps: each moves pages from the end of the file to the front and costs as much writing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3


CHECKPOINT_PAGES: Final = 1000
"""SQLite's own: as many pages in the log before a commit copies them into the file."""


def spare_pages(connection: sqlite3.Connection) -> int:
    """How many pages are free inside the file."""
    (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(pages)


def cut(connection: sqlite3.Connection, most: int) -> int:
    """Take up to `most` free pages off the file; gives how many are left.

    One page a statement: of a PRAGMA that steps without rows Python 3.11 makes the first step alone.
    """
    for _ in range(min(most, spare_pages(connection))):
        connection.execute("PRAGMA incremental_vacuum(1)")
    return spare_pages(connection)


def cut_now(connection: sqlite3.Connection, most: int) -> int:
    """As `cut`; the file itself is shorter with this very commit, and not when the log happens to be full.

    To be followed by `as_usual` in a transaction of its own.
    """
    connection.execute("PRAGMA wal_autocheckpoint = 1")
    return cut(connection, most)


def as_usual(connection: sqlite3.Connection) -> None:
    """The log is copied into the file when it is long, as it is by default."""
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
