"""How long a transaction waits for company: while more comes, and no longer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from edgehost.delivery.writer import Writer


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    """Not started: the test is its thread."""
    return Writer(tmp_path / "journal.db", False, *(4 * [lambda *_: None]))


def test_it_does_not_wait_for_what_does_not_come(writer: Writer) -> None:
    began = time.monotonic()
    writer._wait_while_more_comes(began + 30)
    assert time.monotonic() - began < 10


def test_it_waits_to_the_end_while_more_comes(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehost.delivery.writer._LULL_S", 0.1)
    enough = threading.Event()

    def source() -> None:
        while not enough.wait(0.005):
            writer.jobs.put([])

    thread = threading.Thread(target=source)
    thread.start()
    until = time.monotonic() + 0.5
    writer._wait_while_more_comes(until)
    assert until <= time.monotonic()
    enough.set()
    thread.join()


def test_nothing_is_waited_for_when_the_agent_ends(writer: Writer) -> None:
    writer.jobs.put([])
    writer.hurry()
    began = time.monotonic()
    writer._wait_while_more_comes(began + 30)
    assert time.monotonic() - began < 10
