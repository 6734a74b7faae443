"""Reads a journal's file where no agent does: one that has ended, a copy of another device's, one that was set aside as damaged.

Read only: SQLite may put an index (`-shm`) beside it, and changes nothing else.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from edgehost.control.client import NoAgentError
from edgehost.control.stock import JournalStatus, WrittenBytes
from edgehost.delivery import overview
from edgehost.delivery.clock import Clock, Mark, boot_id, boot_seconds
from edgehost.delivery.schema import found_version
from edgehost.delivery.wear import Written, account, day_of
from edgehost.errors import StateError
from edgehost.state import state_folder

T = TypeVar("T")


def ask(path: Path, question: Callable[[sqlite3.Connection, float], T]) -> T:
    """What `question(connection, now)` finds in the file; `now` is the time of its clock. Raises StateError."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=0.5)) as connection:
            if not found_version(connection):
                raise StateError(f"{path} is empty: no agent has written to it; give the journal.db of one that has")
            return question(connection, _now(connection))
    except sqlite3.Error as error:
        raise StateError(_in_words(path, error)) from error


def status(path: Path) -> JournalStatus:
    """As the agent tells it, as far as a file can."""
    size_bytes = overview.size_on_disk(path)

    def read(connection: sqlite3.Connection, now: float) -> JournalStatus:
        stock = overview.read(connection, now)
        written: Written = {}
        for day, component, count in connection.execute("SELECT day, component, bytes FROM written"):
            written.setdefault(component, {})[day] = count
        return JournalStatus(
            state="closed",
            path=str(path),
            size_bytes=size_bytes,
            clock_s=now,
            events=stock.events,
            outbox=[msgspec.structs.replace(each, state="waiting") for each in stock.outbox if each.count],
            dead_letters=stock.dead_letters,
            written=[
                WrittenBytes(worn.component, worn.today_bytes, worn.week_bytes) for worn in account(written, day_of(time.time()))
            ],
        )

    return ask(path, read)


def without_agent(error: NoAgentError) -> NoAgentError:
    """The same, and how to go on without one."""
    environ = {name: value for name, value in os.environ.items() if name != "STATE_DIRECTORY"}
    usual = [state_folder(None, environ, uid) / "journal.db" for uid in (os.getuid(), 0)]
    file = next((path for path in usual if _there(path)), None)
    return NoAgentError(f"{error}; what an agent that has ended has left is read with --file {file or 'STATE/journal.db'}")


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _now(connection: sqlite3.Connection) -> float:
    row = connection.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
    mark = msgspec.json.decode(row[0], type=Mark) if row is not None else Mark()
    return Clock(mark, boot_id(), boot_seconds()).now()


def _in_words(path: Path, error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text:
        return f"{path} is in use by an agent; ask that one: without --file, or with its --socket"
    if "unable to open" in text or "readonly" in text:
        return f"{path} cannot be opened ({text}); run this as the agent's user, or on a copy of it and its -wal"
    if "malformed" in text:
        return f"{path} is damaged ({text}); an agent that opens it saves what can be saved"
    return f"{path} cannot be read: {text}; give the journal.db of an agent"
