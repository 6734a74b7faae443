"""The ledger of jobs: each runs once and has one end, whoever dies when."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest

from edgehost.delivery.jobs import ENDS, INTERRUPTED, KEPT_S, End, Jobs, JobState
from edgehost.delivery.journal import Journal
from edgehost.errors import StateError

ROOT = Path(__file__).parents[2]
STATES = ("accepted", "running", *get_args(End))


class Runs:
    """One run of an agent after the other, over one journal: `start` gives the ledger as that run finds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._journal: Journal | None = None

    def start(self) -> Jobs:
        assert self._journal is None, "two agents cannot have one journal"
        self._journal = Journal(self._path)
        return Jobs(self._journal)

    async def end(self) -> None:
        if self._journal is not None:
            await self._journal.close()
            self._journal = None


@pytest.fixture
async def runs(tmp_path: Path) -> AsyncIterator[Runs]:
    runs = Runs(tmp_path / "journal.db")
    yield runs
    await runs.end()


async def test_a_job_is_written_down_before_it_is_acknowledged(runs: Runs) -> None:
    job, new = await runs.start().accept("j1", "install", b"{}")
    assert new and (job.id, job.type, job.n, job.state, job.request, job.status) == ("j1", "install", 1, "accepted", b"{}", b"")
    await runs.end()
    assert await runs.start().open() == [job]


async def test_the_same_id_twice_is_one_job(runs: Runs) -> None:
    jobs = runs.start()
    await jobs.accept("j1", "install", b"first")
    running = await jobs.change("j1", "running", b"50 %")
    assert await jobs.accept("j1", "remove", b"second") == (running, False)
    done = await jobs.change("j1", "succeeded")
    assert await jobs.accept("j1", "install", b"first") == (done, False)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STATES, STATES)))
async def test_every_change_is_as_the_table_says(runs: Runs, before: JobState, after: JobState) -> None:
    jobs = runs.start()
    job, _ = await jobs.accept("j1", "t", b"")
    if before != "accepted":
        job = await jobs.change("j1", before, b"was")
    if before not in ENDS and after != "accepted":
        changed = await jobs.change("j1", after, b"is")
        assert (changed.state, changed.status, changed.n, changed.request) == (after, b"is", job.n + 1, job.request)
        assert changed.at >= job.at and changed.ended == (after in ENDS)
        job = changed
    else:
        with pytest.raises(StateError, match=f"job 'j1' (has ended \\({before}\\)|is {before}) and cannot become {after}"):
            await jobs.change("j1", after, b"is")
    assert await jobs.open() == ([] if job.ended else [job])
    assert (await jobs.accept("j1", "t", b""))[0] == job, "what was refused has changed nothing"


async def test_n_rises_with_every_change(runs: Runs) -> None:
    jobs = runs.start()
    await jobs.accept("j1", "t", b"")
    assert [(await jobs.change("j1", "running", b"%d" % step)).n for step in range(5)] == [2, 3, 4, 5, 6]


async def test_a_job_nobody_knows_is_refused(runs: Runs) -> None:
    with pytest.raises(StateError, match="job 'j1' is not in the ledger: accept it first"):
        await runs.start().change("j1", "running")


async def test_at_a_start_what_has_no_end_is_given_on_or_ended(runs: Runs) -> None:
    jobs = runs.start()
    for name, state in (("a", None), ("b", "running"), ("c", "succeeded"), ("d", "running")):
        await jobs.accept(name, "t", b"")
        if state is not None:
            await jobs.change(name, state)  # type: ignore[arg-type]
    await runs.end()
    jobs = runs.start()
    assert [job.id for job in await jobs.open()] == ["a", "b", "d"]
    await jobs.change("b", "succeeded")
    ended = await jobs.interrupted()
    assert [(job.id, job.n, job.state, job.status) for job in ended] == [
        ("a", 2, "failed", INTERRUPTED),
        ("d", 3, "failed", INTERRUPTED),
    ]
    assert await jobs.open() == [] and await jobs.interrupted() == []


async def test_one_is_forgotten_a_week_after_its_end_and_never_before(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = runs.start()
    for name in ("done", "open"):
        await jobs.accept(name, "t", b"")
    await jobs.change("done", "succeeded")
    real, later_s = Journal.now, KEPT_S - 60
    monkeypatch.setattr(Journal, "now", lambda self: real(self) + later_s)
    assert not (await jobs.accept("done", "t", b""))[1]
    later_s = KEPT_S + 1
    await jobs.accept("other", "t", b"")
    assert [job.id for job in await jobs.open()] == ["open", "other"]
    assert (await jobs.accept("done", "t", b""))[1]


DIES = """
import asyncio, sys
from pathlib import Path
from edgehost.delivery.jobs import Jobs
from edgehost.delivery.journal import Journal

async def main():
    journal = Journal(Path(sys.argv[1]))
    jobs = Jobs(journal)
    for name in ("a", "b"):
        await jobs.accept(name, "t", b"")
        print(name, "accepted", flush=True)
        for state in ("running", "running", "succeeded"):
            await jobs.change(name, state)
            print(name, state, flush=True)
    await journal.close()

asyncio.run(main())
"""


def died(path: Path, fault: str) -> subprocess.CompletedProcess[str]:
    """What DIES said before it died at `fault`."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "EDGEHOST_FAULT": fault}
    command = [sys.executable, "-c", DIES, str(path)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("fault", ["journal.received", "journal.applied", "journal.committed"])
async def test_a_kill_at_any_transaction_leaves_what_was_said(runs: Runs, fault: str, tmp_path: Path) -> None:
    """Whatever was said is in the ledger, and at most the one change in hand more."""
    kills = 0
    for count in range(1, 30):
        for file in tmp_path.iterdir():
            file.unlink()
        done = died(tmp_path / "journal.db", f"{fault}:{count}")
        said = [tuple(line.split()) for line in done.stdout.splitlines()]
        jobs = runs.start()
        for name in ("a", "b"):
            steps = [state for told, state in said if told == name]
            job, new = await jobs.accept(name, "t", b"")
            assert steps == [] if new else job.n in (len(steps), len(steps) + 1), (count, said, job)
            if not new and job.n == len(steps):
                assert job.state == steps[-1]
        for job in await jobs.interrupted():
            assert job.state == "failed"
        assert await jobs.open() == []
        await runs.end()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
    assert kills >= 8
