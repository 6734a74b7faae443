"""`nmea`: sentences of NMEA 0183 and AIS, `$GPRMC,...*6A` and `!AIVDM,...*24`, whose checksum is right.

A sentence is whole with the last digit of its checksum. A `$` or `!` inside of one begins another, for neither may stand in a
sentence: what was cut off never costs the next. Sentences may be longer than the standard's 82 characters.
"""

from __future__ import annotations

import re

from msgspec import Struct

from edgehost.framing.codec import Codec, FrameLimit

_CHECKED = re.compile(rb"[$!]([^$!*\r\n]*)\*([0-9A-Fa-f]{2})")
_ANY = re.compile(rb"[$!]([^$!*\r\n]+)(?:\*([0-9A-Fa-f]{2})|(?=[\r\n]))")
_BEGUN = re.compile(rb"[$!][^$!*\r\n]*(?:\*[0-9A-Fa-f]?)?\Z")
"""A tail that more bytes could make a sentence of."""


class Nmea(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="nmea"):
    """`framing = "nmea"`."""

    unchecked: bool = False
    """Whether a line without a checksum is a sentence, too, as some old receivers send it."""
    frame_limit_bytes: FrameLimit = 1024


class NmeaCodec(Codec):
    """Sentences from their `$` or `!` to the checksum, without the line's end."""

    def __init__(self, settings: Nmea) -> None:
        super().__init__()
        self._limit = settings.frame_limit_bytes
        self._pattern = _ANY if settings.unchecked else _CHECKED
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        data = self._held + data
        frames = []
        stop, outside = 0, len(data)
        for found in self._pattern.finditer(data):
            sentence = found[0]
            stop = found.end()
            outside -= len(sentence)
            if len(sentence) > self._limit:
                self.counts["too_long"] += 1
            elif found[2] is not None and checksum(found[1]) != int(found[2], 16):
                self.counts["bad_checksum"] += 1
            else:
                frames.append(sentence)
        self._held = self._begun(data, stop)
        outside -= len(self._held) + data.count(b"\n") + data.count(b"\r")
        if outside:
            self.counts["garbage_bytes"] += outside
        return frames

    def finish(self) -> list[bytes]:
        """A last line without a checksum needs no end either, where such lines are allowed."""
        last, self._held = self._held, b""
        if self._pattern is _ANY and b"*" not in last and len(last) > 1:
            return [last]
        self.counts["incomplete"] += bool(last)
        return []

    def reset(self) -> None:
        self.counts["incomplete"] += bool(self._held)
        self._held = b""

    def encode(self, body: bytes) -> bytes:
        """Adds what is missing of `$`, checksum and line end."""
        sentence = body.strip(b"\r\n")
        if b"\n" in sentence or b"\r" in sentence:
            raise ValueError("the answer holds a line end inside; an NMEA sentence is one line")
        if sentence[:1] not in (b"$", b"!"):
            sentence = b"$" + sentence
        if b"*" not in sentence:
            sentence = b"%s*%02X" % (sentence, checksum(sentence[1:]))
        return sentence + b"\r\n"

    def _begun(self, data: bytes, stop: int) -> bytes:
        """The sentence that has begun at the end of `data`, empty if none has, or if it is too long already."""
        at = max(data.rfind(b"$", stop), data.rfind(b"!", stop))
        found = _BEGUN.match(data, at) if at >= 0 else None
        if found is None:
            return b""
        if len(data) - at > self._limit:
            self.counts["too_long"] += 1
            return b""
        return data[at:]


def checksum(body: bytes) -> int:
    """All bytes between `$` and `*`, by exclusive or (NMEA 0183, 5.2.2.4). Folded in halves: ten times a loop's speed."""
    number = int.from_bytes(body, "little")
    bits = 1 << max(3, (8 * len(body) - 1).bit_length() - 1)
    while bits >= 8:
        number = (number >> bits) ^ (number & ((1 << bits) - 1))
        bits >>= 1
    return number
