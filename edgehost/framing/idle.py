"""`idle`: a pause ends a frame."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from edgehost.framing.codec import Codec, FrameLimit


class Idle(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="idle"):
    """`framing = "idle"`."""

    gap_s: Annotated[float, Meta(ge=0.001, le=60)] = 0.02
    """How long the line is quiet between two frames. USB adapters deliver in steps of up to 16 ms."""
    frame_limit_bytes: FrameLimit = 65536


class IdleCodec(Codec):
    """What came between two pauses."""

    def __init__(self, settings: Idle) -> None:
        super().__init__()
        self.gap_s = settings.gap_s
        self._limit = settings.frame_limit_bytes
        self._held = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        if not self._skipping:
            self._held += data
            if len(self._held) > self._limit:
                self._held.clear()
                self._skipping = True
                self.counts["too_long"] += 1
        return []

    def idle(self) -> list[bytes]:
        frame = bytes(self._held)
        self._held.clear()
        self._skipping = False
        return [frame] if frame else []

    def finish(self) -> list[bytes]:
        return self.idle()

    def reset(self) -> None:
        self.counts["incomplete"] += bool(self._held)
        self._held.clear()
        self._skipping = False

    def encode(self, body: bytes) -> bytes:
        return body
