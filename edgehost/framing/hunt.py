"""Hunt: frames that are told by their sizes. Shared by `fixed`, `length` and `modbus-rtu`.

At each place where a frame may begin, `sizes` says how long it may be; the longest that `accept` takes is the frame:

    one is accepted                         a frame; go on behind it
    all are there and none is accepted      no frame begins here; go on at the next place
    not all are there yet                   wait for more bytes, or for the pause that says that no more come
    too long, frames have a start           go on at the next start
    too long, they have none                skip what it announces, for nothing else tells where the next begins

So a frame that broke off costs itself alone, as far as `accept` can tell.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from edgehost.framing.codec import Codec


class HuntCodec(Codec):
    """A subclass says what a frame looks like."""

    wrong = ""
    """The count of frames that are all there and not accepted; each loss of the beginning counts once."""

    def __init__(self, start: bytes, limit_bytes: int) -> None:
        super().__init__()
        self._start = start
        self._limit = limit_bytes
        self._held = bytearray()
        self._skip = 0
        """How many of the bytes to come belong to a frame that is too long."""
        self._lost = False

    @abstractmethod
    def sizes(self, held: bytearray, at: int) -> Sequence[int] | None:
        """The sizes, longest first, that a frame at `at` may have; none: it begins elsewhere; None: more bytes would tell."""

    @abstractmethod
    def accept(self, frame: bytes) -> bytes | None:
        """What the function gets of a frame; None if it is none."""

    def feed(self, data: bytes) -> list[bytes]:
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._held += data
        return self._hunt(waits=True)

    def idle(self) -> list[bytes]:
        """Nothing more comes of what has begun; there may be frames behind its beginning."""
        self._skip = 0
        return self._hunt(waits=False)

    def finish(self) -> list[bytes]:
        return self.idle()

    def reset(self) -> None:
        self.counts["incomplete"] += bool(self._held or self._skip)
        self._held.clear()
        self._skip = 0

    def _hunt(self, waits: bool) -> list[bytes]:
        held = self._held
        frames = []
        at = self._place(0)
        while at < len(held):
            there = len(held) - at
            sizes = self.sizes(held, at)
            if sizes and sizes[0] > self._limit:
                at = self._too_long(at, sizes[0])
                continue
            if waits and (sizes is None or (sizes and sizes[0] > there)):
                break
            size, frame = self._longest(at, [size for size in sizes or () if size <= there])
            if frame is None:
                at = self._no_frame(at, bool(sizes))
            else:
                frames.append(frame)
                self._lost = False
                at = self._place(at + size)
        del held[:at]
        return frames

    def _longest(self, at: int, sizes: Sequence[int]) -> tuple[int, bytes | None]:
        for size in sizes:
            frame = self.accept(bytes(self._held[at : at + size]))
            if frame is not None:
                return size, frame
        return 0, None

    def _no_frame(self, at: int, seemed: bool) -> int:
        if seemed and self.wrong and not self._lost:
            self.counts[self.wrong] += 1
        self._lost = True
        self.counts["garbage_bytes"] += 1
        return self._place(at + 1)

    def _too_long(self, at: int, size: int) -> int:
        self.counts["too_long"] += 1
        if self._start:
            return self._place(at + 1)
        self._skip = max(0, at + size - len(self._held))
        return min(at + size, len(self._held))

    def _place(self, at: int) -> int:
        """The next place with a start, or with what may become one; what stands before it is garbage."""
        held, start = self._held, self._start
        if held.startswith(start, at):
            return at
        found = held.find(start, at)
        if found < 0:
            kept = next((n for n in range(min(len(start) - 1, len(held) - at), 0, -1) if held.endswith(start[:n])), 0)
            found = len(held) - kept
        self.counts["garbage_bytes"] += found - at
        return found
