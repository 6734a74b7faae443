"""Opens the journal's file, whatever state it is in. Called in the journal's thread; knows SQLite and files, no events.

    missing                     made
    whole                       migrated to this version
    damaged                     moved aside as journal.db.damaged-N, what SQLite can still read is copied into a new one
    of a newer edgehost         StateError, untouched
    in use by another agent     StateError
    folder not writable         StateError
The newest _KEPT damaged files stay for a person to look at; the disk ladder may take them earlier.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from edgehost.delivery.rows import first_place
from edgehost.delivery.schema import TABLES, migrate
from edgehost.errors import StateError

_SUFFIXES = ("", "-wal", "-shm", "-journal")
_KEPT = 2
_NUMBERED = ("queues", "events", "outbox", "dead")
"""Tables whose first column is a number that says where on the disk a row lies: there is a way around what is damaged."""
_MOST_HOLES = 64
_STRIDE = 1 << 16
"""How far to jump over places that cannot be read, at most: doubles from 1, so a bad page costs little on either side."""
_UNKNOWN_QUEUES = 16
"""Queues to look for beyond the highest known: their names may be lost."""
_CACHE_KIB = 512
_WAL_BYTES = 4 * 1024 * 1024


def open_journal(path: Path, relaxed: bool) -> tuple[sqlite3.Connection, list[str]]:
    """The journal at `path`, checked, and what had to be mended, one line each for people.

    Raises StateError when there can be none.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StateError(f"{path.parent} cannot be made: {error.strerror}; name another folder in [agent].state") from error
    try:
        return _whole(path, relaxed), []
    except sqlite3.OperationalError as error:
        if not _is_damage(error):
            raise StateError(_in_words(path, error)) from error
        reason = str(error)
    except sqlite3.DatabaseError as error:
        reason = str(error)
    return _anew(path, relaxed, reason)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is broken, and not its disk full, locked or away."""
    return isinstance(error, sqlite3.DatabaseError) and (not isinstance(error, sqlite3.OperationalError) or _is_damage(error))


def _is_damage(error: sqlite3.Error) -> bool:
    """By its words: Python 3.10 does not tell SQLite's codes."""
    text = str(error)
    return any(sign in text for sign in ("malformed", "not a database", "no such table", "no such column", "corrupt"))


def _whole(path: Path, relaxed: bool) -> sqlite3.Connection:
    connection = _connect(path, relaxed)
    try:
        migrate(connection)
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"malformed: {verdict}")
        return connection
    except BaseException:
        connection.close()
        raise


def _connect(path: Path, relaxed: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64, timeout=0.5)
    try:
        # One agent alone: the lock is held to the end, and the WAL's index lies in memory instead of a file beside it.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if relaxed else 'FULL'}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    path.chmod(0o600)
    return connection


def _in_words(path: Path, error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return f"{path} is in use by another agent; end that one, or give this one another folder in edgehost.toml [agent].state"
    if "unable to open" in text or "readonly" in text:
        return f"{path} cannot be opened ({text}); let this user write in {path.parent}, or name another folder in [agent].state"
    return f"{path} cannot be used: {text}; make room in {path.parent}, or name another folder in [agent].state"


def _anew(path: Path, relaxed: bool, reason: str) -> tuple[sqlite3.Connection, list[str]]:
    try:
        aside = _set_aside(path)
        connection = _whole(path, relaxed)
    except (OSError, sqlite3.Error) as error:
        raise StateError(f"{path} is damaged ({reason}) and cannot be begun anew: {error}; make room in {path.parent}") from error
    saved = _salvage(aside, connection)
    told = ", ".join(f"{count} {table}" for table, count in saved.items() if count) or "nothing"
    return connection, [f"{path.name} was damaged ({reason}) and is set aside as {aside.name}; saved from it: {told}"]


def _set_aside(path: Path) -> Path:
    """Move the file and what belongs to it out of the way; gives where it lies now."""
    aside_files = sorted(path.parent.glob(f"{path.name}.damaged-*[0-9]"), key=_number)
    number = _number(aside_files[-1]) + 1 if aside_files else 1
    aside = path.with_name(f"{path.name}.damaged-{number}")
    for old in aside_files[: max(0, len(aside_files) - _KEPT + 1)]:
        for suffix in _SUFFIXES:
            old.with_name(old.name + suffix).unlink(missing_ok=True)
    for suffix in reversed(_SUFFIXES):  # the log first: without it the database would be taken for whole
        source = path.with_name(path.name + suffix)
        if source.exists() or source.is_symlink():
            source.rename(aside.with_name(aside.name + suffix))
    return aside


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _salvage(aside: Path, fresh: sqlite3.Connection) -> dict[str, int]:
    """Copy every row that can be read, table by table; gives how many."""
    saved = dict.fromkeys(TABLES, 0)
    try:
        damaged = sqlite3.connect(aside, isolation_level=None)
    except sqlite3.Error:
        return saved
    with closing(damaged):
        damaged.text_factory = lambda raw: raw.decode("utf-8", "replace")
        for table in TABLES:
            fresh.execute("BEGIN")
            saved[table] = _copy(table, damaged, fresh)
            fresh.execute("COMMIT")
    return saved


def _copy(table: str, damaged: sqlite3.Connection, fresh: sqlite3.Connection) -> int:
    columns = [row[1] for row in fresh.execute(f"PRAGMA table_info({table})")]
    names = ", ".join(f'"{name}"' for name in columns)
    insert = f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"
    select = f"SELECT {names} FROM {table}"
    rows = (
        _in_ranges(select, columns[0], _ranges(table, fresh), damaged)
        if table in _NUMBERED
        else _up_to_damage(select, (), damaged)
    )
    copied = 0
    for row in rows:
        try:
            copied += fresh.execute(insert, row).rowcount
        except sqlite3.Error:
            continue  # a value that a sound row cannot have
    return copied


def _ranges(table: str, fresh: sqlite3.Connection) -> list[tuple[int, int]]:
    """Where a numbered table's rows may lie: one range of keys for each queue, whose numbers are salvaged first."""
    if table not in ("events", "outbox"):
        return [(0, 1 << 40)]
    (most,) = fresh.execute("SELECT ifnull(max(id), 0) FROM queues").fetchone()
    return [(first_place(queue), first_place(queue + 1)) for queue in range(1, most + _UNKNOWN_QUEUES)]


def _in_ranges(select: str, key: str, ranges: list[tuple[int, int]], damaged: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Rows by their key: forward from the start of each range, on behind what cannot be read, at last backward from its end."""
    for start, end in ranges:
        at, stride = start, 1
        for _ in range(_MOST_HOLES):
            last = at - 1
            for row in _up_to_damage(f"{select} WHERE {key} >= ? AND {key} < ? ORDER BY {key}", (at, end), damaged):
                last = row[0]
                yield row
            if last >= at:
                stride = 1
            at, stride = last + 1 + stride, min(stride * 2, _STRIDE)
        yield from _up_to_damage(f"{select} WHERE {key} >= ? AND {key} < ? ORDER BY {key} DESC", (at, end), damaged)


def _up_to_damage(select: str, values: tuple[Any, ...], damaged: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    try:
        yield from damaged.execute(select, values)
    except (sqlite3.Error, UnicodeError):
        return
