"""The journal: what must not be lost, in one database. This is its side in the loop; the thread is writer.py.

`commit` hands over a Change and says when it is on disk; all changes of one turn of the loop are handed over together and are one
transaction. `ask` runs a query in the thread, in its turn. The journal is opened by its first user: an agent that needs none has
no thread and no file. Must not know who uses it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from edgehost.delivery.clock import Clock, Mark, boot_id, boot_seconds
from edgehost.delivery.rows import Change, Totals, first_place
from edgehost.delivery.writer import Job, Query, Then, Writer
from edgehost.errors import StateError

T = TypeVar("T")
QueueKind = Literal["event", "parcel"]
State = Literal["unused", "opening", "open", "failed", "closed"]

_MARK_S = 10.0
_MARK_BYTES = 64 * 1024
_MARK_AT_LEAST_S = 900.0
_DAYS_KEPT = 60
_DAY_S = 86400
log = logging.getLogger("edgehost.journal")


class Journal:
    """One for the agent. Made in the loop it lives in; all methods belong there."""

    def __init__(self, path: Path, relaxed: bool = False) -> None:
        self.path = path
        self.state: State = "unused"
        self.trouble = ""
        """Why nothing can be written now; "" when it can. What was handed over waits."""
        self.notes: list[str] = []
        """What was found damaged since the start, one line each."""
        self.totals = Totals({}, {}, {}, {}, 0, [])
        self.written: dict[str, dict[int, int]] = {}
        """Bytes written by component and day (days since 1970, by this machine's clock)."""
        self.on_trouble: list[Callable[[str], None]] = []
        self.on_open: list[Callable[[], None]] = []
        self._relaxed = relaxed
        self._loop = asyncio.get_running_loop()
        self._clock = Clock(Mark(), "", 0.0)
        self._jobs: list[Job] = []
        self._flushing = False
        self._writer: Writer | None = None
        self._opening: asyncio.Task[None] | None = None
        self._marked: asyncio.TimerHandle | None = None
        self._marked_at = 0.0
        self._counted = 0
        self._queues: dict[tuple[str, str, str], int] = {}
        self._next: dict[QueueKind, dict[int, int]] = {"event": {}, "parcel": {}}

    async def open(self) -> None:
        """Return once it can be used. Raises StateError if it cannot now; another call tries again."""
        if self.state == "open":
            return
        if self.state == "closed":
            raise StateError("the journal is closed: the agent ends")
        if self._opening is None:
            self._opening = self._loop.create_task(self._open())
        opening = self._opening
        try:
            await asyncio.shield(opening)
        finally:
            if opening.done():
                self._opening = None

    async def _open(self) -> None:
        self.state = "opening"
        if self._writer is None:
            self._writer = Writer(self.path, self._relaxed, self._from_thread, self._trouble_from_thread)
            self._writer.start()
        try:
            mark, self.totals, self.written = await self.ask(_read_totals)
        except StateError as error:
            self.state, self.trouble = "failed", str(error)
            raise
        self._clock = Clock(mark, boot_id(), boot_seconds())
        self._queues = {("event", *name): number for name, number in self.totals.sources.items()}
        self._queues |= {("parcel", *name): number for name, number in self.totals.lanes.items()}
        self._next = {"event": self.totals.next_numbers["events"], "parcel": self.totals.next_numbers["outbox"]}
        self.state, self.trouble = "open", ""
        self._note()
        for tell in tuple(self.on_open):
            tell()
        self._write_mark()

    def now(self) -> float:
        """Seconds of the journal's clock: they only rise, also across restarts."""
        return self._clock.now()

    def commit(self, change: Change, then: Then | None = None) -> None:
        """Have `change` written; `then(None, error)` is called in the loop when it is on disk, or never will be."""
        self._hand_over(change, then)

    def ask(self, query: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Run `query` in the thread after all that was handed over before; what it writes is on disk when the future is done."""
        return self._future(query)

    def committed(self, change: Change) -> asyncio.Future[None]:
        """As `commit`, with a future instead of a callback."""
        return self._future(change)

    async def queue(self, kind: QueueKind, function: str, name: str) -> int:
        """The number of the queue of one trigger's events or one output's parcels, given once and for all."""
        key = (kind, function, name)
        if key not in self._queues:
            self._queues[key] = await self.ask(lambda connection: _queue_number(connection, key))
        return self._queues[key]

    def holds(self, function: str, trigger: str) -> bool:
        """Whether an earlier run has left events of this trigger."""
        return self.totals.event_bytes.get(self._queues.get(("event", function, trigger), 0), (0, 0))[0] > 0

    def triggers_of(self, function: str) -> set[str]:
        """The triggers of a function of which an earlier run has left events."""
        return {trigger for of, trigger in self.totals.sources if of == function and self.holds(of, trigger)}

    def next_place(self, kind: QueueKind, queue: int) -> int:
        """The first place of a queue that nobody has taken."""
        return self._next[kind].get(queue, first_place(queue))

    def take_places(self, kind: QueueKind, queue: int, count: int = 1) -> int:
        """Reserve so many places; gives the first."""
        places = self._next[kind]
        first = places.get(queue) or first_place(queue)
        places[queue] = first + count
        return first

    def rest(self, rest_s: float) -> None:
        """Have transactions wait this long for company: fewer bytes for more delay."""
        if self._writer is not None:
            self._writer.rest_s = rest_s

    def count_written(self, component: str, size_bytes: int) -> None:
        """Something else than the journal has been written: it wears the same disk."""
        today = int(time.time() // _DAY_S)
        days = self.written.setdefault(component, {})
        days[today] = days.get(today, 0) + size_bytes

    async def close(self) -> None:
        """Write what was handed over, then end the thread. What cannot be written fails with StateError."""
        if self._marked is not None:
            self._marked.cancel()
        if self.state == "open":
            self._put_mark()
        self.state = "closed"
        self._flush()
        if self._writer is not None:
            writer = self._writer
            writer.end()
            await self._loop.run_in_executor(None, writer.join)

    def _future(self, what: Change | Query) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._hand_over(what, done)
        return future

    def _hand_over(self, what: Change | Query, then: Then | None) -> None:
        self._jobs.append((what, then))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if not self._jobs:
            return
        jobs, self._jobs = self._jobs, []
        if self._writer is None or not self._writer.is_alive():
            error = StateError("the journal is closed" if self.state == "closed" else "the journal was not opened")
            self._outcomes([(then, None, error) for _, then in jobs if then is not None])
        else:
            self._writer.jobs.put(jobs)

    def _from_thread(self, outcomes: list[tuple[Then, Any, BaseException | None]]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._outcomes, outcomes)
        except RuntimeError:
            pass  # the loop is gone, and everybody who waited with it

    def _outcomes(self, outcomes: list[tuple[Then, Any, BaseException | None]]) -> None:
        for then, result, error in outcomes:
            try:
                then(result, error)
            except Exception:
                log.exception("after a transaction")

    def _trouble_from_thread(self, trouble: str) -> None:
        try:
            self._loop.call_soon_threadsafe(self._troubled, trouble)
        except RuntimeError:
            pass

    def _troubled(self, trouble: str) -> None:
        if trouble == self.trouble:
            return
        self.trouble = trouble
        if trouble:
            log.error("%s", trouble)
        else:
            log.info("the journal is written again")
        for tell in tuple(self.on_trouble):
            tell(trouble)

    def _note(self) -> None:
        assert self._writer is not None
        for note in self._writer.notes[len(self.notes) :]:
            self.notes.append(note)
            log.error("%s", note)

    def _write_mark(self) -> None:
        """Where the clock stands, and what has been written: beside other writing, or seldom. An idle disk is left alone."""
        assert self._writer is not None
        written = self._writer.written_bytes()
        self._note()
        if written - self._counted > _MARK_BYTES or self.now() - self._marked_at > _MARK_AT_LEAST_S:
            self._put_mark()
        self._marked = self._loop.call_later(_MARK_S, self._write_mark)

    def _put_mark(self) -> None:
        assert self._writer is not None
        written = self._writer.written_bytes()
        if written > self._counted:
            self.count_written("journal", written - self._counted)
            self._counted = written
        mark = self._clock.mark()
        self._marked_at = mark.now_s
        rows = [(day, component, count) for component, days in self.written.items() for day, count in days.items()]

        def put(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('clock', ?)", (msgspec.json.encode(mark),))
            connection.executemany("INSERT OR REPLACE INTO written VALUES (?, ?, ?)", rows)
            connection.execute("DELETE FROM written WHERE day < ?", (int(time.time() // _DAY_S) - _DAYS_KEPT,))

        self._hand_over(put, None)


def _read_totals(connection: sqlite3.Connection) -> tuple[Mark, Totals, dict[str, dict[int, int]]]:
    row = connection.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
    mark = msgspec.json.decode(row[0], type=Mark) if row is not None else Mark()
    queues = connection.execute("SELECT kind, function, name, id FROM queues").fetchall()
    nexts: dict[str, dict[int, int]] = {"events": {}, "outbox": {}}
    sizes: dict[int, tuple[int, int]] = {}
    for _, _, _, number in queues:
        first, end = first_place(number), first_place(number + 1)
        for table, of in nexts.items():
            (last,) = connection.execute(
                f"SELECT max(place) FROM {table} WHERE place >= ? AND place < ?", (first, end)
            ).fetchone()
            if last is not None:
                of[number] = last + 1
        count, size = connection.execute(
            "SELECT count(*), ifnull(sum(length(event)), 0) FROM events WHERE place >= ? AND place < ?", (first, end)
        ).fetchone()
        sizes[number] = (count, size)
    (dead,) = connection.execute("SELECT count(*) FROM dead").fetchone()
    written: dict[str, dict[int, int]] = {}
    for day, component, count in connection.execute("SELECT day, component, bytes FROM written"):
        written.setdefault(component, {})[day] = count
    totals = Totals(
        sources={(function, name): number for kind, function, name, number in queues if kind == "event"},
        lanes={(function, name): number for kind, function, name, number in queues if kind == "parcel"},
        next_numbers=nexts,
        event_bytes=sizes,
        dead=dead,
        notes=[],
    )
    return mark, totals, written


def _queue_number(connection: sqlite3.Connection, key: tuple[str, str, str]) -> int:
    connection.execute("INSERT OR IGNORE INTO queues (kind, function, name) VALUES (?, ?, ?)", key)
    (number,) = connection.execute("SELECT id FROM queues WHERE kind = ? AND function = ? AND name = ?", key).fetchone()
    return int(number)
