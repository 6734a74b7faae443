"""What a worker's native code and child processes write to descriptors 1 and 2, as log lines; and a limit to how many lines
count.

Knows a pipe and text; must not know workers or functions.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import monotonic

LINE_MAX = 8 * 1024
"""Bytes of one line; a longer one is cut into pieces."""


PIPE_MAX = 1024 * 1024
"""More than a pipe ever holds (pipe(7))."""


class OutputPipe:
    """The read end of a worker's output in the agent's loop. `line(text)` gets each line without its newline."""

    def __init__(self, loop: asyncio.AbstractEventLoop, line: Callable[[str], None]) -> None:
        self._loop = loop
        self._line = line
        self._rest = b""
        self._descriptor, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._descriptor, False)
        loop.add_reader(self._descriptor, self._readable)

    def handed_over(self) -> None:
        """The worker has its copy of the write end: close ours."""
        os.close(self.write_end)
        self.write_end = -1

    def _readable(self) -> None:
        # One read per turn of the loop: a worker that floods its output waits in its own write, not the agent.
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self._split(data)

    def _split(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_MAX:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            for start in range(0, max(1, len(line)), LINE_MAX):
                self._line(line[start : start + LINE_MAX].decode("utf-8", "replace"))

    def close(self) -> None:
        """Log what is left (a pipe holds 64 KiB: the last words of a worker that died), give the descriptors back."""
        if self._descriptor < 0:
            return
        self._loop.remove_reader(self._descriptor)
        try:
            self._split(os.read(self._descriptor, PIPE_MAX))
        except BlockingIOError:
            pass
        os.close(self._descriptor)
        self._descriptor = -1
        if self.write_end >= 0:
            self.handed_over()
        if self._rest:
            self._line(self._rest.decode("utf-8", "replace"))
            self._rest = b""


class Throttle:
    """A token bucket for log lines: `burst` at once, `rate` a second after that. `allow` says whether one more line counts."""

    def __init__(self, rate: float = 200.0, burst: float = 1000.0) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = monotonic()
        self.dropped = 0

    def allow(self) -> bool:
        now = monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            self.dropped += 1
            return False
        self._tokens -= 1
        return True

    def take_dropped(self) -> int:
        """How many lines were dropped since the last call."""
        dropped, self.dropped = self.dropped, 0
        return dropped
