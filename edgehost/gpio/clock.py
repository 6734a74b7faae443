"""When an edge was, for people: the kernel's CLOCK_MONOTONIC as a time of day."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from edgehost.event import EPOCH


def wall_offset_ns() -> int:
    """What to add to a monotonic time now. Asked anew for each batch, so an edge read after the clock was set has the new time.

    On a board without a clock it may be negative until the time is known; dates before 1970 are dates too.
    """
    return time.time_ns() - time.monotonic_ns()


def date(wall_ns: int) -> datetime:
    """The date of a time in nanoseconds since 1970."""
    return EPOCH + timedelta(microseconds=wall_ns // 1000)
