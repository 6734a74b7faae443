"""The tables of the journal and the steps between their versions. Pure SQL; must not know who reads or writes it.

    user_version     tables              means
    0                none                new: every step is made
    0                some                damage: it is something else's database, or its header is broken
    1 to ours        ours                the steps that are missing are made
    1 to ours        others              damage, likewise
    above ours       any                 refused and left alone: a newer edgehost has written it
    beyond reason    any                 damage: there will never be so many versions

`PRAGMA user_version` holds the version. A step is never changed once it has been released: a new one is added. `auto_vacuum`
gives room back to a small disk page by page; it can be chosen before the first table alone.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from typing import Final

from edgehost.errors import StateError

_STEPS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE queues (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, function TEXT NOT NULL, name TEXT NOT NULL,
        UNIQUE (kind, function, name));
    CREATE TABLE events (place INTEGER PRIMARY KEY, event BLOB NOT NULL, key TEXT, at REAL NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX events_key ON events (key) WHERE key IS NOT NULL;
    CREATE TABLE outbox (place INTEGER PRIMARY KEY, "to" TEXT NOT NULL, parcel BLOB NOT NULL, at REAL NOT NULL, until REAL,
        packet_id INTEGER NOT NULL DEFAULT 0, released INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE answered (key TEXT PRIMARY KEY, until REAL NOT NULL, response BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE dead (number INTEGER PRIMARY KEY AUTOINCREMENT, function TEXT NOT NULL, trigger TEXT NOT NULL,
        output TEXT NOT NULL, event_id TEXT NOT NULL, code TEXT NOT NULL, error TEXT NOT NULL, attempts INTEGER NOT NULL,
        received REAL NOT NULL, failed REAL NOT NULL, at REAL NOT NULL, body BLOB NOT NULL);
    CREATE TABLE jobs (id TEXT PRIMARY KEY, type TEXT NOT NULL, n INTEGER NOT NULL, state TEXT NOT NULL, request BLOB NOT NULL,
        status BLOB NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE written (day INTEGER NOT NULL, component TEXT NOT NULL, bytes INTEGER NOT NULL,
        PRIMARY KEY (day, component)) WITHOUT ROWID;
    """,
)
TABLES: Final = ("queues", "events", "outbox", "answered", "dead", "jobs", "written", "meta")
"""In the order in which they are salvaged: who owns a row first, what is only convenient last."""
_BEYOND_REASON = 10_000


def found_version(connection: sqlite3.Connection) -> int:
    """The version of a database; 0 for a new one. Reads alone.

    Raises StateError if a newer edgehost has written it (to read it wrongly would lose more than not to read it), and
    sqlite3.DatabaseError if it is no journal.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    newest = len(_STEPS)
    if newest < found < _BEYOND_REASON:
        raise StateError(
            f"the journal is of version {found} and this edgehost knows {newest}: it was written by a newer edgehost; "
            "install that one again, or move the file away to begin a new journal"
        )
    if not 0 <= found <= newest:
        raise sqlite3.DatabaseError(f"its version is {found}, which no edgehost has written")
    if not found and (names := [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]):
        raise sqlite3.DatabaseError(f"it has no version and holds {', '.join(map(str, names[:3]))}, so it is no journal")
    return int(found)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database, a new one too, from the version it has to this one, step by step, each wholly or not at all.

    Raises as `found_version`, which it asks first.
    """
    found = found_version(connection)
    for version in range(found, len(_STEPS)):
        connection.executescript(f"BEGIN IMMEDIATE; {_STEPS[version]}; PRAGMA user_version = {version + 1}; COMMIT;")
    for table, expected in columns(len(_STEPS)).items():
        if (there := columns_of(connection, table)) != expected:
            raise sqlite3.DatabaseError(f"its table {table} holds {', '.join(there) or 'nothing'}, so it is no journal")


def columns(version: int) -> dict[str, dict[str, str]]:
    """What every table of a version has to hold: the names of its columns, and their types."""
    return _columns(_STEPS[:version])


@cache
def _columns(steps: tuple[str, ...]) -> dict[str, dict[str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for step in steps:
            connection.executescript(step)
        return {table: columns_of(connection, table) for table in TABLES}


def columns_of(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    """The columns that a table has, in their order, with their types; none if there is no such table."""
    return {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}
