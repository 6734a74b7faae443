"""Fault points: the places between two steps of a promise, by name, where a test can have the process die.

EDGEHOST_FAULT names one: `journal.committed` (the first time it is passed) or `journal.committed:7` (the seventh). The process
then gets SIGKILL from itself, so that nothing runs any more: no `finally`, no flush. Without the variable a point costs a
look at a number. Must not know what the steps are.
"""

from __future__ import annotations

import os
import signal
from typing import Final

POINTS: Final = (
    "journal.received",
    "journal.applied",
    "journal.committed",
    "inflow.kept",
    "inflow.given",
    "delivery.answered",
    "delivery.settled",
    "outbox.stored",
    "outbox.claimed",
    "outbox.sent",
    "outbox.released",
    "outbox.taken",
    "outbox.left",
    "dead.written",
    "dead.replayed",
    "dedupe.known",
)
"""Every point there is, in the order in which an event meets them."""

VARIABLE: Final = "EDGEHOST_FAULT"


class _Armed:
    """The point at which this process is to die, and how many passes of it are left. `name` is empty: none."""

    def __init__(self, text: str) -> None:
        name, _, count = text.partition(":")
        if text and (name not in POINTS or not (count or "1").isdigit()):
            raise SystemExit(f"{VARIABLE}={text!r} is no fault point; use NAME or NAME:COUNT with one of {', '.join(POINTS)}")
        self.name = name
        self.left = int(count or 1)


_armed = _Armed(os.environ.get(VARIABLE, ""))


def at(name: str) -> None:
    """The process is at this point."""
    if name == _armed.name:
        _armed.left -= 1
        if _armed.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
