"""The journal: what must not be lost, in one database. This is its side in the loop; the thread is writer.py.

`commit` hands over a Change and says when it is on disk; all changes of one turn of the loop are handed over together and are one
transaction. `ask` runs a query in the thread, in its turn.

    unused      nobody has asked for it: no thread, no file
    opening     its first user waits
    open        can be used; `trouble` says whether the disk takes anything now
    failed      there can be none now, and `trouble` says why: whoever needs it tries again
    closed      for ever: what is handed over fails at once

Must not know who uses it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from edgehost.delivery.clock import Clock, Mark, boot_id, boot_seconds
from edgehost.delivery.holdings import Days, holdings, put_mark, put_queues, queue_number
from edgehost.delivery.rows import Change, Totals, first_place
from edgehost.delivery.wear import Worn, Written, account, added, day_of, shortened
from edgehost.errors import EdgehostError, StateError

if TYPE_CHECKING:
    import sqlite3

    from edgehost.delivery.transaction import Job, Outcomes, Query, Then
    from edgehost.delivery.writer import Writer

T = TypeVar("T")
QueueKind = Literal["event", "parcel"]
State = Literal["unused", "opening", "open", "failed", "closed"]

_MARK_S = 10.0
_MARK_BYTES = 64 * 1024
_MARK_AT_LEAST_S = 900.0
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
        self.written: Written = {}
        """What has been written, by component and day; as the journal's own, counted up to the last look."""
        self.spares: set[str] = set()
        """Who wants it to write nothing now but what a promise needs."""
        self.spared = 0
        """Dead letters that were not written for that."""
        self.on_trouble: list[Callable[[str], None]] = []
        self.on_open: list[Callable[[], None]] = []
        """Told when it can be used, and again when it had to be mended in use: `totals` are new then."""
        self.on_letters: list[Callable[[int], None]] = []
        """Told how many dead letters have just been handed over."""
        self._relaxed = relaxed
        self._loop = asyncio.get_running_loop()
        self._clock = Clock(Mark(), "", 0.0)
        self._jobs: list[Job] = []
        self._flushing = False
        self._writer: Writer | None = None
        self._rest_s = 0.0
        self._opening: asyncio.Task[None] | None = None
        self._marked: asyncio.TimerHandle | None = None
        self._marked_at = 0.0
        self._counted = 0
        """Bytes of the thread that are in `written`, and how many of them were at the last mark."""
        self._marked_bytes = 0
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
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # whoever waited has been told; if nobody does any more, the next one tries again

    async def _open(self) -> None:
        if self.state == "closed":  # between the call and its first turn
            raise StateError("the journal was closed before it was opened: the agent ends")
        self.state = "opening"
        if self._writer is None:
            from edgehost.delivery.writer import Writer  # SQLite is for those who need a journal

            self._writer = Writer(
                self.path, self._relaxed, self._from_thread, self._trouble_from_thread, self._mended_from_thread, self._restore
            )
            self._writer.rest_s = self._rest_s
            self._writer.start()
        try:
            found = await self.ask(holdings)
        except Exception as error:
            why = str(error) if isinstance(error, EdgehostError) else f"{self.path} cannot be read: {error}"
            raise self._failed(why) from error
        self._take_up(*found)

    def _failed(self, why: str) -> StateError:
        if self.state != "closed":
            self.state, self.trouble = "failed", why
        return StateError(why)

    def _take_up(self, mark: Mark, totals: Totals, written: Days) -> None:
        if self.state == "closed":
            raise StateError("the journal was closed while it was opened: the agent ends")
        self.totals = totals
        self.written = added(written, self.written)
        self._clock = Clock(mark, boot_id(), boot_seconds())
        self._queues = {("event", *name): number for name, number in totals.sources.items()}
        self._queues |= {("parcel", *name): number for name, number in totals.lanes.items()}
        self._next = {"event": totals.next_numbers["events"], "parcel": totals.next_numbers["outbox"]}
        self.state, self.trouble = "open", ""
        for tell in tuple(self.on_open):
            tell()
        self._write_mark()

    def now(self) -> float:
        """Seconds of the journal's clock: they only rise, also across restarts."""
        return self._clock.now()

    def commit(self, change: Change, then: Then | None = None) -> None:
        """Have `change` written; `then(None, error)` is called in the loop when it is on disk, or never will be."""
        self._hand_over(change, then)
        if change.dead:
            self._tell_letters(len(change.dead))

    def ask(self, query: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Run `query` in the thread after all that was handed over before; what it writes is on disk when the future is done."""
        return self._future(query)

    def committed(self, change: Change) -> asyncio.Future[None]:
        """As `commit`, with a future instead of a callback."""
        future = self._future(change)
        if change.dead:
            self._tell_letters(len(change.dead))
        return future

    def _tell_letters(self, count: int) -> None:
        for tell in tuple(self.on_letters):
            tell(count)

    async def queue(self, kind: QueueKind, function: str, name: str) -> int:
        """The number of the queue of one trigger's events or one output's parcels, given once and for all."""
        key = (kind, function, name)
        if key not in self._queues:
            self._queues[key] = await self.ask(lambda connection: queue_number(connection, key))
        return self._queues[key]

    def holds(self, function: str, trigger: str) -> bool:
        """Whether there may be events of this trigger on disk: an earlier run has left some, or this one has put some there."""
        return self._queues.get(("event", function, trigger), 0) in self._next["event"]

    def triggers_of(self, function: str) -> set[str]:
        """The triggers of a function that `holds` is true of."""
        return {name for kind, of, name in self._queues if kind == "event" and of == function and self.holds(of, name)}

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
        self._rest_s = rest_s
        if self._writer is not None:
            self._writer.rest_s = rest_s

    def count_written(self, component: str, size_bytes: int) -> None:
        """Something else than the journal has been written: it wears the same disk."""
        self.written = added(self.written, {component: {day_of(time.time()): size_bytes}})

    def wear(self) -> list[Worn]:
        """How much each component has written: today, this week, in all."""
        self._count()
        return account(self.written, day_of(time.time()))

    def hurry(self) -> None:
        """The agent begins to end: what the disk does not take now fails with StateError instead of waiting for room."""
        if self._writer is not None:
            self._writer.hurry()

    async def close(self) -> None:
        """Write what was handed over, then end the thread. What cannot be written fails with StateError."""
        if self._marked is not None:
            self._marked.cancel()
        if self.state == "open":
            self._put_mark()
        self._flush()
        self.state = "closed"
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
        if self._writer is None or self.state == "closed":
            error = StateError("the journal is closed" if self.state == "closed" else "the journal was not opened")
            self._outcomes([(then, None, error) for _, then in jobs if then is not None])
        else:
            self._writer.jobs.put(jobs)

    def _call_from_thread(self, call: Callable[..., None], *told: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *told)
        except RuntimeError:
            pass  # the loop is gone, and everybody who waited with it

    def _from_thread(self, outcomes: Outcomes) -> None:
        self._call_from_thread(self._outcomes, outcomes)

    def _outcomes(self, outcomes: Outcomes) -> None:
        for then, result, error in outcomes:
            try:
                then(result, error)
            except Exception:
                log.exception("after a transaction")

    def _trouble_from_thread(self, trouble: str) -> None:
        self._call_from_thread(self._troubled, trouble)

    def _mended_from_thread(self, notes: list[str]) -> None:
        self._call_from_thread(self._mended, notes)

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

    def _mended(self, notes: list[str]) -> None:
        """The file was damaged; something may be lost. What is counted by users is counted anew."""
        self.notes += notes
        for note in notes:
            log.error("%s", note)
        if self.state == "open":
            self.ask(holdings).add_done_callback(self._recounted)

    def _recounted(self, done: asyncio.Future[tuple[Mark, Totals, Days]]) -> None:
        if done.cancelled() or done.exception() is not None or self.state != "open":
            return  # the journal says itself what is wrong with it
        _, self.totals, _ = done.result()
        for tell in tuple(self.on_open):
            tell()

    def _restore(self, connection: sqlite3.Connection) -> None:
        """In the thread, into a file that had to be mended: what this run knows better."""
        put_queues(connection, list(self._queues.items()))
        if self.state == "open":
            put_mark(connection, self._clock.mark(), self.written)

    def _write_mark(self) -> None:
        """Where the clock stands, and what has been written: beside other writing, or seldom. An idle disk is left alone."""
        self._count()
        if self._counted - self._marked_bytes > _MARK_BYTES or self.now() - self._marked_at > _MARK_AT_LEAST_S:
            self._put_mark()
        self._marked = self._loop.call_later(_MARK_S, self._write_mark)

    def _count(self) -> None:
        """What the thread has written by now."""
        written = self._writer.written_bytes() if self._writer is not None else 0
        if written > self._counted:
            self.count_written("journal", written - self._counted)
            self._counted = written

    def _put_mark(self) -> None:
        self._count()
        self._marked_bytes = self._counted
        mark = self._clock.mark()
        self._marked_at = mark.now_s
        self.written = shortened(self.written)
        written = self.written
        self._hand_over(lambda connection: put_mark(connection, mark, written), None)
