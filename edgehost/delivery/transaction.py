"""Transaction: the statements that a batch of changes and queries comes to, between BEGIN and COMMIT. In the journal's thread.

    together       all changes between two queries at once: the quick way, and nearly always the only one
    each alone     one of them is at fault: what it does not spoil gets in all the same

A query that raises leaves nothing behind, and the rest of the transaction stays. What says that the file is broken or the disk
full is raised: then there is no transaction at all. Must not know what the rows mean.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from edgehost.delivery.rows import Change
from edgehost.delivery.sqlite_errors import is_damage, is_trouble
from edgehost.errors import StateError

Query = Callable[[sqlite3.Connection], Any]
Then = Callable[[Any, BaseException | None], None]
Job = tuple["Change | Query", "Then | None"]
"""What to do, and whom to tell, in the loop."""
Outcomes = list[tuple[Then, Any, "BaseException | None"]]

_CHUNK = 64

log = logging.getLogger("edgehost.journal")


def together(connection: sqlite3.Connection, batch: list[Job]) -> Outcomes:
    """As in the table above; likewise `each_alone`."""
    outcomes: Outcomes = []
    changes: list[Change] = []
    for what, then in batch:
        result, error = None, None
        if isinstance(what, Change):
            changes.append(what)
        else:
            apply(connection, changes)
            changes = []
            result, error = _alone(connection, what)
        if then is not None:
            outcomes.append((then, result, error))
    apply(connection, changes)
    return outcomes


def each_alone(connection: sqlite3.Connection, batch: list[Job]) -> Outcomes:
    outcomes: Outcomes = []
    for what, then in batch:
        query = partial(_apply_one, what) if isinstance(what, Change) else what
        result, error = _alone(connection, query, suspect=True)
        if then is not None:
            outcomes.append((then, result, error))
        elif error is not None:
            log.error("the journal could not do something nobody waits for: %s", error)
    return outcomes


def _alone(connection: sqlite3.Connection, query: Query, suspect: bool = False) -> tuple[Any, BaseException | None]:
    """A query's result, or what it raised; then nothing of it stays, and the rest of the transaction does.

    Raises what says that the whole transaction cannot be: also damage, unless it is the query that is the suspect.
    """
    connection.execute("SAVEPOINT query")
    try:
        result = query(connection)
        connection.execute("RELEASE query")
        return result, None
    except Exception as error:
        if is_trouble(error) or not connection.in_transaction or (is_damage(error) and not suspect):
            raise
        connection.execute("ROLLBACK TO query")
        connection.execute("RELEASE query")
        return None, error


def _apply_one(change: Change, connection: sqlite3.Connection) -> None:
    try:
        apply(connection, (change,))
    except Exception as error:
        if is_trouble(error):
            raise
        raise StateError(f"the journal cannot hold this: {type(error).__name__}: {error}") from error


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
