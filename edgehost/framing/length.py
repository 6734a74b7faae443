"""`length`: frames that say how long they are.

    | start | offset ... | length | payload | trailer ... end |
    |<--- offset_bytes -->|<----->|         |<- trailer_bytes ->|
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgehost.framing.codec import FrameLimit, Gap
from edgehost.framing.hunt import HuntCodec
from edgehost.framing.notation import octets

Small = Annotated[int, Meta(ge=0, le=4096)]


class Length(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="length"):
    """`framing = { kind = "length", ... }`."""

    length_bytes: Annotated[int, Meta(ge=1, le=8)] = 2
    """How many bytes the length itself has."""
    form: Literal["big", "little", "hex", "decimal"] = "big"
    """How the length is written: a binary number with its first byte the highest or the lowest, or digits of text."""
    offset_bytes: Small = 0
    """How many bytes stand before the length, the start included."""
    start: str = ""
    """What each frame begins with, as text or as 0x and hexadecimal. It is what finds the next frame after garbage."""
    trailer_bytes: Small = 0
    """How many bytes follow the payload and are not in the length: a checksum, an end."""
    end: str = ""
    """What each frame ends with; part of the trailer. A frame without it is garbage."""
    counts_header: bool = False
    """Whether the length counts itself and what stands before it."""
    adjust: Annotated[int, Meta(ge=-4096, le=4096)] = 0
    """Added to the length, for protocols that count otherwise still."""
    payload_only: bool = False
    """Whether the function gets the payload alone instead of whole frames, and answers are wrapped."""
    gap_s: Gap = 0.0
    """A frame that stops for so long was broken off; 0: never."""
    frame_limit_bytes: FrameLimit = 65536
    """The longest frame, with everything that belongs to it."""

    def __post_init__(self) -> None:
        if self.form in ("big", "little") and self.length_bytes not in (1, 2, 4):
            raise ValueError(f"length_bytes: a binary length has 1, 2 or 4 bytes, not {self.length_bytes}")
        if len(octets("start", self.start)) > self.offset_bytes:
            raise ValueError("offset_bytes: counts the start, too; make it at least as large")
        if len(octets("end", self.end)) > self.trailer_bytes:
            raise ValueError("trailer_bytes: counts the end, too; make it at least as large")


class LengthCodec(HuntCodec):
    """Frames by their own word, held to their start and end."""

    def __init__(self, settings: Length) -> None:
        super().__init__(octets("start", settings.start), settings.frame_limit_bytes)
        self.gap_s = settings.gap_s
        self._settings = settings
        self._end = octets("end", settings.end)
        self._header = settings.offset_bytes + settings.length_bytes
        self._around = settings.trailer_bytes + settings.adjust + (0 if settings.counts_header else self._header)
        """What a frame has beyond the number in its length."""

    def sizes(self, held: bytearray, at: int) -> Sequence[int] | None:
        written = bytes(held[at + self._settings.offset_bytes : at + self._header])
        if len(written) < self._settings.length_bytes:
            return None
        number = self._number(written)
        size = -1 if number is None else number + self._around
        return (size,) if size >= self._header + self._settings.trailer_bytes else ()

    def accept(self, frame: bytes) -> bytes | None:
        if not frame.endswith(self._end):
            return None
        return frame[self._header : len(frame) - self._settings.trailer_bytes] if self._settings.payload_only else frame

    def encode(self, body: bytes) -> bytes:
        """A whole frame as it is; a payload with its start, its length and its end, all else zero."""
        settings = self._settings
        if not settings.payload_only:
            return body
        length = self._written(len(body) + self._header + settings.trailer_bytes - self._around)
        before = self._start.ljust(settings.offset_bytes, b"\0")
        return before + length + body + self._end.rjust(settings.trailer_bytes, b"\0")

    def _number(self, written: bytes) -> int | None:
        form = self._settings.form
        if form == "big" or form == "little":
            return int.from_bytes(written, form)
        try:
            return int(written, 16 if form == "hex" else 10) if written.isalnum() else None
        except ValueError:
            return None

    def _written(self, number: int) -> bytes:
        form, size = self._settings.form, self._settings.length_bytes
        try:
            if form == "big" or form == "little":
                return number.to_bytes(size, form)
            text = f"{number:0{size}{'X' if form == 'hex' else 'd'}}".encode()
        except OverflowError:
            text = b""
        if len(text) != size or number < 0:
            raise ValueError(f"the answer's length {number} does not fit the {size} bytes of this framing's length")
        return text
