"""The agent's side of a worker process: its end is told exactly once, whoever comes first."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from edgehost.engine.nursery import Process


@pytest.fixture
def process() -> Iterator[Process]:
    with subprocess.Popen(["sleep", "1000"]) as child:
        made = Process(child.pid, os.pidfd_open(child.pid))
        yield made
        made.end("over")
        child.kill()


def test_an_end_is_told_once(process: Process) -> None:
    told: list[str] = []
    process.when_ended(told.append)
    process.end("exit status 3")
    process.end("again")
    assert told == ["exit status 3"]


def test_an_end_that_came_before_anybody_asked_is_told_all_the_same(process: Process) -> None:
    """A worker that dies at once on a busy machine: its birth and its end are read in one turn of the loop."""
    told: list[str] = []
    process.end("exit status 3")
    process.when_ended(told.append)
    assert told == ["exit status 3"]


def test_a_process_that_ended_can_be_killed_again(process: Process) -> None:
    told: list[str] = []
    process.when_ended(told.append)
    process.kill()
    process.kill()
    process.end("killed")
    process.kill()
    assert told == ["killed"]
