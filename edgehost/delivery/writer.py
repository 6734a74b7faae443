"""The journal's one thread: takes what the loop has handed over, makes one transaction of it, syncs it, and says so.

    idle       nothing handed over                    sleep
    idle       something                              one transaction
    busy       more came meanwhile                    all of it is the next transaction: they share one sync
    stuck      disk full, I/O error                   the transaction again, later; `trouble` says why
    damaged    SQLite finds the file broken           recovery, then the transaction again
    closed     None is handed over                    checkpoint, close, end

A change is never given up once it was taken: whoever waits for it waits. Must not know what the rows mean.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgehost.backoff import Backoff
from edgehost.delivery import faults
from edgehost.delivery.recovery import is_damage, open_journal
from edgehost.delivery.rows import Change
from edgehost.errors import EdgehostError, StateError

Query = Callable[[sqlite3.Connection], Any]
Then = Callable[[Any, BaseException | None], None]
Job = tuple["Change | Query", "Then | None"]
"""What to do, and whom to tell, in the loop."""

_BUSY_JOBS = 8
"""A transaction of so many jobs is followed by a rest, in which more of them come together."""
_REST_S = 0.004
_CHUNK = 64
_VACUUM_PAGES = 256


class Writer(threading.Thread):
    """`tell(outcomes)` is called in this thread, once a transaction, with (then, result, error) of each job in it."""

    def __init__(
        self,
        path: Path,
        relaxed: bool,
        tell: Callable[[list[tuple[Then, Any, BaseException | None]]], None],
        trouble: Callable[[str], None],
    ) -> None:
        super().__init__(name="journal", daemon=True)
        self.jobs: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self.rest_s = 0.0
        """How long a transaction waits for more to share it: the longer, the fewer bytes are written."""
        self.notes: list[str] = []
        """What was found damaged and mended."""
        self._path = path
        self._relaxed = relaxed
        self._tell = tell
        self._trouble = trouble
        self._connection: sqlite3.Connection | None = None
        self._rested = 0.0
        self._ending = threading.Event()

    def run(self) -> None:
        """The thread."""
        gap_s = 0.0
        while (batch := self.jobs.get()) is not None:
            if (left := self._rested + max(gap_s, self.rest_s) - time.monotonic()) > 0:
                self._ending.wait(left)
            ended = self._take_more(batch)
            gap_s = _REST_S if len(batch) >= _BUSY_JOBS else 0.0
            self._carry_out(batch)
            self._rested = time.monotonic()
            if ended:
                break
        self._close()

    def end(self) -> None:
        """From the loop: finish what was handed over, then end. Does not wait."""
        self._ending.set()
        self.jobs.put(None)

    def written_bytes(self) -> int:
        """What this thread has handed to write(2) since it began; 0 where the kernel does not count."""
        try:
            counted = Path(f"/proc/self/task/{self.native_id}/io").read_text()
            return int(counted.split("wchar: ")[1].split("\n")[0])
        except (OSError, IndexError, ValueError):
            return 0

    def _take_more(self, batch: list[Job]) -> bool:
        """Everything handed over by now; True if the end is among it."""
        while True:
            try:
                more = self.jobs.get_nowait()
            except queue.Empty:
                return False
            if more is None:
                return True
            batch += more

    def _carry_out(self, batch: list[Job]) -> None:
        """Until it is done: a disk that is full now has room again some time."""
        backoff = Backoff(0.2, 5.0)
        faults.at("journal.received")
        while True:
            try:
                outcomes = self._transact(batch)
                break
            except EdgehostError as error:
                if self._connection is None:
                    self._give_up(batch, error)
                    return
                raise
            except sqlite3.Error as error:
                if self._connection is not None and is_damage(error):
                    self._let_go()  # the next try opens it again, and finds it damaged
                    continue
                self._trouble(f"the journal cannot be written ({error}); make room in {self._path.parent}")
                if self._ending.wait(backoff.next()) and backoff.failures > 3:
                    self._give_up(batch, StateError(f"the journal could not be written before the end: {error}"))
                    return
        if backoff.failures:
            self._trouble("")
        self._tell(outcomes)

    def _give_up(self, batch: list[Job], error: EdgehostError) -> None:
        self._tell([(then, None, error) for _, then in batch if then is not None])

    def _transact(self, batch: list[Job]) -> list[tuple[Then, Any, BaseException | None]]:
        """One transaction. Raises StateError if there is no journal at all, sqlite3.Error if this did not get into it."""
        connection = self._opened()
        outcomes: list[tuple[Then, Any, BaseException | None]] = []
        changes: list[Change] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for what, then in batch:
                result, error = None, None
                if isinstance(what, Change):
                    changes.append(what)
                else:
                    apply(connection, changes)
                    changes = []
                    result, error = _asked(connection, what)
                if then is not None:
                    outcomes.append((then, result, error))
            apply(connection, changes)
            faults.at("journal.applied")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        faults.at("journal.committed")
        return outcomes

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection, notes = open_journal(self._path, self._relaxed)
            self.notes += notes
        return self._connection

    def _let_go(self) -> None:
        """The file turned out to be broken while it was in use."""
        assert self._connection is not None
        with suppress(sqlite3.Error):  # it is of no use any more, and may say so again
            self._connection.close()
        self._connection = None

    def _close(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
            self._connection.close()
        except sqlite3.Error as error:
            self._trouble(f"the journal was not closed well: {error}; nothing of it is lost")


def _asked(connection: sqlite3.Connection, query: Query) -> tuple[Any, BaseException | None]:
    """A query's result, or what it raised; then nothing of it stays, and the rest of the transaction does."""
    connection.execute("SAVEPOINT query")
    try:
        result = query(connection)
        connection.execute("RELEASE query")
        return result, None
    except Exception as error:
        if isinstance(error, sqlite3.Error) and (is_damage(error) or not connection.in_transaction or "full" in str(error)):
            raise
        connection.execute("ROLLBACK TO query")
        connection.execute("RELEASE query")
        return None, error


def apply(connection: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Write these changes. What is received and settled within them is not written at all."""
    if not changes:
        return
    settled = {place for change in changes for place in change.settled}
    left = {place for change in changes for place in change.left}
    received = [row for change in changes for row in change.received]
    stored = [row for change in changes for row in change.stored]
    kept = [row for row in received if row.place not in settled] if settled else received
    waiting = [row for row in stored if row.place not in left] if left else stored
    if kept:
        values = [value for row in kept for value in (row.place, row.event, row.key, row.at, row.attempts)]
        _insert(connection, "INSERT INTO events (place, event, key, at, attempts)", 5, values)
    if settled:
        _delete(connection, "events", "place", sorted(settled.difference(row.place for row in received) if received else settled))
    if waiting:
        values = [
            value for row in waiting for value in (row.place, row.to, row.parcel, row.at, row.until, row.packet_id, row.released)
        ]
        _insert(connection, 'INSERT INTO outbox (place, "to", parcel, at, until, packet_id, released)', 7, values)
    for change in changes:
        if change.claimed:
            connection.executemany("UPDATE outbox SET packet_id = ?2 WHERE place = ?1", change.claimed)
        if change.released:
            connection.executemany("UPDATE outbox SET released = 1 WHERE place = ?", [(place,) for place in change.released])
        if change.tried:
            connection.executemany("UPDATE events SET attempts = ?2 WHERE place = ?1", change.tried)
    if left:
        _delete(connection, "outbox", "place", sorted(left.difference(row.place for row in stored) if stored else left))
    if answered := [value for change in changes for row in change.answered for value in (row.key, row.until, row.response)]:
        _insert(connection, "INSERT OR REPLACE INTO answered (key, until, response)", 3, answered)
    if dead := [row for change in changes for row in change.dead]:
        connection.executemany(
            "INSERT INTO dead (function, trigger, output, event_id, code, error, attempts, received, failed, at, body) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_tuple(row) for row in dead],
        )


def _tuple(row: Any) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in row.__struct_fields__)


def _insert(connection: sqlite3.Connection, head: str, width: int, values: list[Any]) -> None:
    """Many rows a statement: each step of SQLite lets go of the interpreter, and to get it back from a busy loop takes time."""
    row = f"({', '.join('?' * width)})"
    whole, step = f"{head} VALUES {', '.join([row] * _CHUNK)}", width * _CHUNK
    end = len(values) // step * step
    for start in range(0, end, step):
        connection.execute(whole, values[start : start + step])
    if end < len(values):
        rest = (len(values) - end) // width
        connection.execute(f"{head} VALUES {', '.join([row] * rest)}", values[end:])


def _delete(connection: sqlite3.Connection, table: str, key: str, keys: list[int]) -> None:
    """By ranges where the keys follow each other, as they mostly do."""
    start = 0
    single: list[int] = []
    for index in range(1, len(keys) + 1):
        if index == len(keys) or keys[index] != keys[index - 1] + 1:
            if index - start > 2:
                connection.execute(f"DELETE FROM {table} WHERE {key} BETWEEN ? AND ?", (keys[start], keys[index - 1]))
            else:
                single += keys[start:index]
            start = index
    for at in range(0, len(single), _CHUNK):
        some = single[at : at + _CHUNK]
        connection.execute(f"DELETE FROM {table} WHERE {key} IN ({', '.join('?' * len(some))})", some)
