"""Feed: one stream that can wait (a pipe, a TCP connection), cut into frames and offered as fast as the function takes them.

    bytes came          cut; offered while the intake is not full
    the intake is full  what is whole waits here, and `read(False)`: the pipe fills, and its writer waits
    room again          offered; `read(True)` once nothing waits
    quiet for `gap_s`   what only a pause ends is cut; a pause begins with the last byte, or when reading goes on
A feed holds one chunk of frames and what its codec has begun. Must not know where the bytes come from.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable

from edgehost.framing import Codec


class Feed:
    """Whoever owns it calls `room` when its intake has room again. `offer(frame)` makes the event."""

    def __init__(
        self,
        codec: Codec,
        counts: Counter[str],
        full: Callable[[], bool],
        offer: Callable[[bytes], None],
        read: Callable[[bool], None],
    ) -> None:
        self._codec = codec
        self._counts = counts
        self._full = full
        self._offer = offer
        self._read = read
        self._reading = True
        self._frames: deque[bytes] = deque()
        self._empty = asyncio.Event()
        self._empty.set()
        self._loop = asyncio.get_running_loop()
        self._gap_s = codec.gap_s
        self._last_s = 0.0
        self._quiet: asyncio.TimerHandle | None = None

    def data(self, data: bytes) -> None:
        """What has been read."""
        self._add(self._codec.feed(data))
        self._await_pause()

    def room(self) -> None:
        """Offer what waits, as long as there is room."""
        while self._frames and not self._full():
            self._offer(self._frames.popleft())
        if not self._frames:
            self._empty.set()
        if self._reading == bool(self._frames):
            self._reading = not self._frames
            self._read(self._reading)
            self._await_pause()

    async def until_empty(self) -> None:
        """Return once everything has been offered."""
        await self._empty.wait()

    async def finish(self) -> None:
        """The stream is over: return once its last frame has been offered."""
        self.close()
        self._add(self._codec.finish())
        self.room()
        await self._empty.wait()

    def close(self) -> None:
        """Have no timer run any more."""
        self._gap_s = 0.0
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None

    def _add(self, frames: list[bytes]) -> None:
        if self._codec.counts:
            self._counts.update(self._codec.counts)
            self._codec.counts.clear()
        if frames:
            self._frames.extend(frames)
            self._empty.clear()
            self.room()

    def _await_pause(self) -> None:
        """Something was heard, or can be heard again: a pause would begin now."""
        if self._gap_s and self._reading:
            self._last_s = self._loop.time()
            if self._quiet is None:
                self._quiet = self._loop.call_later(self._gap_s, self._look_if_quiet)

    def _look_if_quiet(self) -> None:
        self._quiet = None
        if not self._reading:
            return  # the rest of what has begun may wait in the pipe
        left_s = self._last_s + self._gap_s - self._loop.time()
        if left_s > 0:
            self._quiet = self._loop.call_later(left_s, self._look_if_quiet)
        else:
            self._add(self._codec.idle())
