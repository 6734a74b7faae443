"""Codec: what every framing is to those that read and write bytes. Pure: no descriptor, no clock, no loop.

    bytes came                 feed    the frames that are whole now
    the line is quiet, gap_s   idle    what only a pause can end
    the stream is over         finish  what only its end can end; the rest is counted as `incomplete`
    the stream broke off       reset   what was begun is dropped, and counted as `incomplete`

A codec holds at most its frame limit and one chunk. What it skips it counts: `too_long`, `bad_checksum`, `incomplete` (frames),
`garbage_bytes` (bytes outside of every frame).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Annotated

from msgspec import Meta

FrameLimit = Annotated[int, Meta(ge=1, le=64 * 1024 * 1024)]
"""The longest frame, in bytes of its content; a longer one is counted (`too_long`) and skipped."""
Gap = Annotated[float, Meta(ge=0, le=60)]
"""Seconds of silence on the line; `gap = "20ms"` in a manifest."""

COUNTED = ("too_long", "bad_checksum", "incomplete", "garbage_bytes")


class Codec(ABC):
    """One stream's framing. The frames do not depend on how the stream was cut into chunks, those that a pause ends aside."""

    gap_s: float = 0.0
    """How long the line must be quiet before `idle` is called; 0: never."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    @abstractmethod
    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes, in order."""

    def idle(self) -> list[bytes]:
        """The frames that end because nothing has come for `gap_s`."""
        return []

    def finish(self) -> list[bytes]:
        """The frames that end because the stream does; the codec is as new, but for its counts."""
        self.reset()
        return []

    @abstractmethod
    def reset(self) -> None:
        """Drop what has been begun: the stream broke off."""

    @abstractmethod
    def encode(self, body: bytes) -> bytes:
        """`body` as a frame to send. Raises ValueError for one that this framing cannot carry."""
