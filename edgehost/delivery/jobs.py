"""The ledger of management jobs: what the fleet has asked this device to do, and what came of it, across crashes.

    state        means                                                       goes on to
    accepted     written down; only then is the request acknowledged         running, or an end
    running      somebody works on it; `status` says how far                 running, or an end
    succeeded    done                                                        -
    failed       not done, or not known to be: it broke, or was cut short    -
    rejected     will not be done: not allowed, not possible here            -
    expired      its time was over before it began, or before it was done    -
    cancelled    taken back                                                  -

A job has one end, and none after it. `n` rises by one with every change, so whoever is told late, or twice, can tell which is the
newest. An id that comes again is the same job: it does not run again. At a start every job without an end is given to whoever can
go on with it (`open`), the others are ended (`interrupted`). A job is forgotten 7 days of the journal's clock after its end.
Must not know what a type of job does, or who is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from msgspec import Struct

from edgehost.delivery.journal import Journal
from edgehost.errors import StateError

if TYPE_CHECKING:
    import sqlite3

End = Literal["succeeded", "failed", "rejected", "expired", "cancelled"]
JobState = Literal["accepted", "running", End]

ENDS: Final = frozenset(get_args(End))
KEPT_S: Final = 7 * 86400.0
INTERRUPTED: Final = b"interrupted"
"""The status of a job that an agent's end has cut short."""

_COLUMNS = "id, type, n, state, request, status, at"
_OPEN = "state IN ('accepted', 'running')"


class Job(Struct, frozen=True):
    """One job as the ledger has it."""

    id: str
    type: str
    n: int
    state: JobState
    request: bytes
    status: bytes
    at: float
    """Of its last change, in seconds of the journal's clock."""

    @property
    def ended(self) -> bool:
        """Nothing will change any more."""
        return self.state in ENDS


class Jobs:
    """One for the agent. Every method returns when what it says is on disk, and raises StateError if it cannot be."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def accept(self, id: str, type: str, request: bytes) -> tuple[Job, bool]:
        """The job of this id, and whether it is new. One that is not is as it was: its request is not looked at."""
        await self._journal.open()
        job = Job(id, type, 1, "accepted", request, b"", self._journal.now())
        return await self._journal.ask(lambda connection: _accept(connection, job))

    async def change(self, id: str, state: JobState, status: bytes = b"") -> Job:
        """Write down how far it is. Raises StateError for a job that has ended, is not known, or cannot go back to `state`."""
        await self._journal.open()
        now = self._journal.now()
        return await self._journal.ask(lambda connection: _change(connection, id, state, status, now))

    async def open(self) -> list[Job]:
        """Those without an end, in the order of their last change: at a start what the run before has left."""
        await self._journal.open()
        return await self._journal.ask(_open)

    async def interrupted(self) -> list[Job]:
        """End all of those as failed; gives them as they are then."""
        await self._journal.open()
        now = self._journal.now()
        return await self._journal.ask(
            lambda connection: [_change(connection, job.id, "failed", INTERRUPTED, now) for job in _open(connection)]
        )


def _accept(connection: sqlite3.Connection, job: Job) -> tuple[Job, bool]:
    connection.execute(f"DELETE FROM jobs WHERE NOT {_OPEN} AND at <= ?", (job.at - KEPT_S,))
    known = _find(connection, job.id)
    if known is None:
        _write(connection, job)
    return known or job, known is None


def _change(connection: sqlite3.Connection, id: str, state: JobState, status: bytes, now: float) -> Job:
    job = _find(connection, id)
    if job is None:
        raise StateError(f"job {id!r} is not in the ledger: accept it first; a job is forgotten 7 days after its end")
    if job.ended:
        raise StateError(f"job {id!r} has ended ({job.state}) and cannot become {state}; a job has one end")
    if state == "accepted":
        raise StateError(f"job {id!r} is {job.state} and cannot become accepted; it can become running, or end")
    job = Job(id, job.type, job.n + 1, state, job.request, status, now)
    _write(connection, job)
    return job


def _find(connection: sqlite3.Connection, id: str) -> Job | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (id,)).fetchone()
    return _job(row) if row is not None else None


def _open(connection: sqlite3.Connection) -> list[Job]:
    return [_job(row) for row in connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE {_OPEN} ORDER BY at, id")]


def _write(connection: sqlite3.Connection, job: Job) -> None:
    values = (job.id, job.type, job.n, job.state, job.request, job.status, job.at)
    connection.execute(f"INSERT OR REPLACE INTO jobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def _job(row: tuple[object, ...]) -> Job:
    return Job(*cast("tuple[str, str, int, JobState, bytes, bytes, float]", row))
