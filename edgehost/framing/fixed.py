"""`fixed`: frames of one size."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from edgehost.framing.codec import FrameLimit, Gap
from edgehost.framing.hunt import HuntCodec
from edgehost.framing.notation import octets


class Fixed(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fixed"):
    """`framing = { kind = "fixed", size = 12 }`."""

    size_bytes: FrameLimit
    """The whole frame, its start included."""
    start: str = ""
    """What each frame begins with, as text or as 0x and hexadecimal. Without it one lost byte shifts all frames until a gap."""
    gap_s: Gap = 0.0
    """A frame that stops for so long is dropped, and the next byte begins another; 0: never."""

    def __post_init__(self) -> None:
        if len(octets("start", self.start)) > self.size_bytes:
            raise ValueError(f"start: is longer than the {self.size_bytes} bytes of a frame")


class FixedCodec(HuntCodec):
    """Every `size_bytes` from a start on."""

    def __init__(self, settings: Fixed) -> None:
        super().__init__(octets("start", settings.start), settings.size_bytes)
        self.gap_s = settings.gap_s
        self._sizes = (settings.size_bytes,)

    def sizes(self, held: bytearray, at: int) -> Sequence[int] | None:
        return self._sizes if held.startswith(self._start, at) else None

    def accept(self, frame: bytes) -> bytes | None:
        return frame

    def encode(self, body: bytes) -> bytes:
        if len(body) != self._limit:
            raise ValueError(f"the answer has {len(body)} bytes; a frame of this framing has {self._limit}")
        return body
