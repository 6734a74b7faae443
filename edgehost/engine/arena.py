"""The memory an agent and one worker share: two sealed memfds, one written by each side and read by the other.

    inbound  (agent writes, worker maps read-only)   0: TAKEN | 8: RECALLED | 4096..: bodies of events
    outbound (worker writes, agent maps read-only)   0: STATE | 4096..: outbox | then: bodies of answers

The worker builds its answer frames in the outbox and sends them from there, so an answer is visible to the agent from the moment
the handler returned: when the worker dies, or sits in a slow event with quick answers unsent, the agent reads on in memory where
the socket stopped, by STATE's stream positions. Nothing answered is lost, and what had not begun is known exactly.

Bodies take the lowest free extent, so the pages ever touched are those of the peak use. Knows nothing of events or frames.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from struct import Struct

SIZE = 32 * 1024 * 1024
"""Bytes of each memfd. Virtual: pages exist once touched. A body that finds no room travels inside its frame instead."""
OUTBOX_AT = 4096
OUTBOX_SIZE = 256 * 1024
ANSWERS_AT = OUTBOX_AT + OUTBOX_SIZE
EVENTS_AT = 4096

STATE = Struct("<QQQdd")
"""begun: events begun since birth | sent: stream position of the outbox's first byte | end: of the byte after its last |
peak_s: decaying peak of the service time | busy_s: seconds spent in the handler since birth."""
TAKEN = Struct("<Q")
"""How many bodies of answers the agent has taken out."""
RECALLED = Struct("<QQ")
"""first, last: the events of these ordinals were taken back and are not to be begun; 0, 0 when there are none."""
RECALLED_AT = 8

_ALIGN = 64  # a cache line: two bodies never share one
_F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h, since 5.1


class Extents:
    """Which parts of an arena are taken. Lowest fit over a short sorted list: at most one entry per event in flight."""

    def __init__(self, start: int, end: int) -> None:
        self._start = start
        self._end = end
        self._taken: list[tuple[int, int]] = []

    def take(self, size: int) -> int:
        """The offset of `size` free bytes, now taken; 0 if there is no such gap (0 is never inside an arena)."""
        size = (size + _ALIGN - 1) // _ALIGN * _ALIGN
        at = self._start
        for index, (start, end) in enumerate(self._taken):
            if start - at >= size:
                self._taken.insert(index, (at, at + size))
                return at
            at = end
        if self._end - at < size:
            return 0
        self._taken.append((at, at + size))
        return at

    def release(self, at: int) -> None:
        """Give back the extent that `take` returned. Raises KeyError for one that is not taken."""
        for index, (start, _end) in enumerate(self._taken):
            if start == at:
                del self._taken[index]
                return
        raise KeyError(at)

    def __len__(self) -> int:
        return len(self._taken)


def create(name: str) -> int:
    """A new memfd of SIZE bytes that can neither shrink nor grow: the other side cannot make our reads fault
    (memfd_create(2)).
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, SIZE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def map_own(descriptor: int) -> mmap.mmap:
    """Map the memfd this side writes."""
    return mmap.mmap(descriptor, SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


def map_other(descriptor: int) -> mmap.mmap:
    """Map the memfd the other side writes."""
    return mmap.mmap(descriptor, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)


def seal_written(descriptor: int) -> None:
    """After map_own: no one can map it writable any more. Kernels before 5.1 lack the seal, and the worker is then trusted
    not to.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
    except OSError:
        pass
