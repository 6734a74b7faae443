"""What waits to be written to a port: whole frames, in order, bounded. Knows no descriptor: it is given a `write`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from edgehost.errors import TriggerError

MOST_BYTES = 256 * 1024

Write = Callable[[memoryview], int]


class Outbox:
    """Frames are written one after another, each to its last byte before the next begins."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[memoryview, asyncio.Future[None]]] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, data: bytes) -> asyncio.Future[None]:
        """Put a frame at the end; done when the kernel has all of it. Raises TriggerError if there is no room."""
        if self._bytes + len(data) > MOST_BYTES:
            waits = f" {self._bytes} bytes wait already: the other side takes none" if self._bytes else ""
            raise TriggerError(f"{len(data)} bytes find no room among the {MOST_BYTES} that may wait to be written;{waits}")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((memoryview(data), future))
        self._bytes += len(data)
        return future

    def flush(self, write: Write) -> bool:
        """Write as much as `write` takes; True when nothing waits any more. Raises what `write` raises."""
        while self._waiting:
            data, future = self._waiting[0]
            count = write(data)
            self._bytes -= count
            if count < len(data):
                self._waiting[0] = (data[count:], future)
                return False
            self._waiting.popleft()
            if not future.done():
                future.set_result(None)
        return True

    def fail(self, reason: str) -> None:
        """Nothing that waits will be written."""
        waiting, self._waiting, self._bytes = self._waiting, deque(), 0
        for _, future in waiting:
            if not future.done():
                future.set_exception(TriggerError(reason))
                future.exception()  # whoever awaits it is told; a write that nobody awaits is no loose end

    async def empty(self) -> None:
        """Return when everything that waits now is written or has failed."""
        if self._waiting:
            await asyncio.wait([future for _, future in self._waiting])
