"""The journal's clock: seconds that only rise, across restarts and whatever the wall clock says. Pure, but for reading a clock.

    within a boot       the kernel's CLOCK_BOOTTIME: also counts while the machine sleeps, cannot be set
    across a restart    the same clock goes on, if the boot is the same; `mark` is what is written down
    across a boot       goes on from the last mark, or from the newest row if that came later: a lower bound, for nobody knows
                        how long the power was off

So what expires never expires too early, and the time without power does not count. Wall time is for people alone.
"""

from __future__ import annotations

import time
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Mark(Struct, frozen=True):
    """The clock at a moment of a boot."""

    boot_id: str = ""
    boot_s: float = 0.0
    now_s: float = 0.0

    def at_least(self, now_s: float) -> Mark:
        """The same moment, if the clock is known to have gone further since."""
        return self if now_s <= self.now_s else replace(self, boot_s=self.boot_s + now_s - self.now_s, now_s=now_s)


class Clock:
    """`now()` in seconds since the journal was first made."""

    def __init__(self, before: Mark, boot_id: str, boot_s: float) -> None:
        went_on = before.boot_id == boot_id and boot_id != "" and boot_s >= before.boot_s
        self._boot_id = boot_id
        self._offset_s = before.now_s - (before.boot_s if went_on else boot_s)

    def now(self) -> float:
        return boot_seconds() + self._offset_s

    def mark(self) -> Mark:
        """What to write down now."""
        boot_s = boot_seconds()
        return Mark(self._boot_id, boot_s, boot_s + self._offset_s)


def boot_seconds() -> float:
    """Seconds since this boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """This boot's name; empty where the kernel gives none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
