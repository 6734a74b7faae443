"""The tables of the journal and the steps between their versions. Pure SQL; must not know who reads or writes it.

`PRAGMA user_version` holds the version. A step is never changed once it has been released: a new one is added. `auto_vacuum`
gives room back to a small disk page by page; it can be chosen before the first table alone.
"""

from __future__ import annotations

import sqlite3

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
VERSION = len(_STEPS)
TABLES = ("queues", "events", "outbox", "answered", "dead", "jobs", "written", "meta")
"""In the order in which they are salvaged: who owns a row first, what is only convenient last."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database, a new one too, to VERSION, step by step, each wholly or not at all.

    Raises StateError if a newer edgehost has written it: to read it wrongly would lose more than not to read it.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        raise StateError(
            f"the journal is of version {found} and this edgehost knows {VERSION}: it was written by a newer edgehost; "
            "install that one again, or move the file away to begin a new journal"
        )
    if found == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for version in range(found, VERSION):
        connection.executescript(f"BEGIN IMMEDIATE; {_STEPS[version]}; PRAGMA user_version = {version + 1}; COMMIT;")
