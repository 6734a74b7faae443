"""The journal's one thread: takes what the loop has handed over, makes one transaction of it, syncs it, and says so.

    idle        nothing handed over                    sleep
    idle        something                              one transaction
    busy        more came meanwhile                    all of it is the next transaction: they share one sync
    faulty      one change or query cannot be done     all of them again, each for itself: its fault is told to its owner alone
    stuck       disk full, I/O error                   the transaction again, first in the log's own room, then in that of the
                                                       reserve, then later; `trouble` says why
    damaged     SQLite finds the file broken           checked and mended, then the transaction again; if the same happens with a
                                                       file that was whole, it is mended all the same, and then it is faulty
    uprooted    the file was deleted or replaced       what the open one holds is written anew in its place
    closed      None is handed over                    checkpoint, close, end

A change is never given up once it was taken, unless the agent ends: whoever waits for it waits. Nothing ends this thread but
None: what it has not foreseen fails the transaction in hand. Must not know what the rows mean.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgehost.backoff import Backoff
from edgehost.delivery import faults
from edgehost.delivery.recovery import open_journal, rescue
from edgehost.delivery.reserve import Reserve
from edgehost.delivery.spare import cut
from edgehost.delivery.sqlite_errors import is_damage, is_trouble
from edgehost.delivery.transaction import Job, Outcomes, each_alone, together
from edgehost.errors import EdgehostError, StateError

_BUSY_JOBS = 8
"""A transaction of so many jobs is followed by a rest, in which more of them come together."""
_REST_S = 0.004
_LULL_S = 0.001
"""It ends early when nothing more has come for so long."""
_VACUUM_PAGES = 256
_LAST_TRIES = 3
"""How often a transaction is tried when the agent ends and the disk takes nothing."""
_DOUBT = "SQLite found it malformed while it was in use"

log = logging.getLogger("edgehost.journal")


class Writer(threading.Thread):
    """`tell(outcomes)` is called in this thread, once a transaction, with (then, result, error) of each job in it.

    `mended(notes)` likewise, when the file had to be; `restore(connection)` puts back what the loop knows better than a file that
    was damaged.
    """

    def __init__(
        self,
        path: Path,
        relaxed: bool,
        tell: Callable[[Outcomes], None],
        trouble: Callable[[str], None],
        mended: Callable[[list[str]], None],
        restore: Callable[[sqlite3.Connection], None],
    ) -> None:
        super().__init__(name="journal", daemon=True)
        self.jobs: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self.rest_s = 0.0
        """How long a transaction waits for more to share it: the longer, the fewer bytes are written."""
        self._path = path
        self._relaxed = relaxed
        self._tell = tell
        self._trouble = trouble
        self._mended = mended
        self._restore = restore
        self._reserve = Reserve(path)
        self._connection: sqlite3.Connection | None = None
        self._file = (0, 0)
        """Device and inode of what is open."""
        self._troubled = False
        self._rested = 0.0
        self._ending = threading.Event()

    def run(self) -> None:
        """The thread."""
        gap_s = 0.0
        while (batch := self.jobs.get()) is not None:
            if (left := self._rested + self.rest_s - time.monotonic()) > 0:
                self._ending.wait(left)
            self._wait_while_more_comes(self._rested + gap_s)
            ended = self._take_more(batch)
            gap_s = _REST_S if len(batch) >= _BUSY_JOBS else 0.0
            try:
                self._carry_out(batch)
            except Exception as error:
                log.exception("the journal's thread goes on after what it has not foreseen")
                self._give_up(batch, StateError(f"the journal could not do it: {type(error).__name__}: {error}"))
            self._rested = time.monotonic()
            if ended:
                break
        self._close()

    def hurry(self) -> None:
        """From the loop: the agent ends. What the disk does not take now is given up, and nothing rests any more."""
        self._ending.set()

    def end(self) -> None:
        """From the loop: finish what was handed over, then end. Does not wait. Nothing may be handed over after it."""
        self._ending.set()
        self.jobs.put(None)

    def written_bytes(self) -> int:
        """What this thread has handed to write(2) since it began; 0 where the kernel does not count."""
        try:
            counted = Path(f"/proc/self/task/{self.native_id}/io").read_text()
            return int(counted.split("wchar: ")[1].split("\n")[0])
        except (OSError, IndexError, ValueError):
            return 0

    def _wait_while_more_comes(self, until: float) -> None:
        """A few events at a time, each sent when the one before is on disk, would wait in vain for company."""
        seen = -1
        while (left := until - time.monotonic()) > 0 and self.jobs.qsize() != seen:
            seen = self.jobs.qsize()
            self._ending.wait(min(left, _LULL_S))

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
        damages = 0
        emptied = False
        while True:
            try:
                outcomes = self._done(batch, damages > 1)
                break
            except StateError as error:
                trouble = str(error)
                if self._connection is None:
                    self._tell_trouble(trouble)
                    self._give_up(batch, error)
                    return
            except (sqlite3.Error, OSError) as error:
                if is_damage(error) and damages < 2:
                    damages += 1
                    self._open_again(_DOUBT if damages > 1 else "")
                    continue
                self._empty_log()
                if not emptied or ("full" in str(error) and self._reserve.spend()):
                    emptied = True
                    continue
                trouble = f"the journal cannot be written ({error}); make room in {self._path.parent}"
            self._tell_trouble(trouble)
            if self._ending.wait(backoff.next()) and backoff.failures > _LAST_TRIES:
                self._give_up(batch, StateError(f"not written before the agent ended: {trouble}"))
                return
        self._tell_trouble("")
        self._tell(outcomes)
        self._reserve.keep()

    def _tell_trouble(self, trouble: str) -> None:
        if trouble or self._troubled:
            self._troubled = bool(trouble)
            self._trouble(trouble)

    def _give_up(self, batch: list[Job], error: EdgehostError) -> None:
        self._tell([(then, None, error) for _, then in batch if then is not None])

    def _done(self, batch: list[Job], suspect: bool) -> Outcomes:
        """The batch in one transaction. Raises StateError if there is no journal, sqlite3.Error or OSError if this did not get
        into it. `suspect`: what now looks like damage is the fault of one of them.
        """
        if self._connection is None:
            self._open("")
        else:
            self._stay()
        if not suspect:
            try:
                return self._transact(batch, together)
            except Exception as error:
                if is_damage(error) or is_trouble(error):
                    raise
        return self._transact(batch, each_alone)

    def _transact(self, batch: list[Job], way: Callable[[sqlite3.Connection, list[Job]], Outcomes]) -> Outcomes:
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        try:
            outcomes = way(connection, batch)
            faults.at("journal.applied")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        faults.at("journal.committed")
        return outcomes

    def _empty_log(self) -> None:
        """What the log holds goes into the file, where its pages mostly are already: then the log is written from its start
        again, and needs no byte more of a disk that is full.
        """
        if self._connection is not None:
            with suppress(sqlite3.Error):  # the transaction's own trouble is told
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _open(self, broken: str) -> None:
        self._connection, notes = open_journal(self._path, self._relaxed, broken)
        about = self._path.stat()
        self._file = about.st_dev, about.st_ino
        if notes:
            self._mended(notes)
            with self._connection:
                self._restore(self._connection)

    def _open_again(self, broken: str) -> None:
        """The file turned out to be broken while it was in use."""
        self._let_go()
        with suppress(StateError):  # the next try says so
            self._open(broken)

    def _let_go(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):  # it is of no use any more, and may say so again
                self._connection.close()
            self._connection = None

    def _stay(self) -> None:
        """See that what is open lies where the next start looks for it: SQLite writes on into a file without a name."""
        try:
            about = self._path.stat()
            if (about.st_dev, about.st_ino) == self._file:
                return
        except OSError:
            pass
        assert self._connection is not None
        note = rescue(self._connection, self._path)
        self._let_go()
        self._mended([note])
        self._open("")

    def _close(self) -> None:
        if self._connection is None:
            return
        try:
            cut(self._connection, _VACUUM_PAGES)
            self._connection.close()
        except sqlite3.Error as error:
            self._trouble(f"the journal was not closed well: {error}; nothing of it is lost")
