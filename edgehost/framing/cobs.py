"""`cobs`: consistent overhead byte stuffing (Cheshire and Baker, 1999): packets without a zero byte, ended by one."""

from __future__ import annotations

from msgspec import Struct

from edgehost.framing.codec import Codec, FrameLimit
from edgehost.framing.splitter import Splitter

_RUN = 254
"""The most bytes after one code byte; its code, 255, says that no zero follows them."""


class Cobs(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cobs"):
    """`framing = "cobs"`."""

    frame_limit_bytes: FrameLimit = 65536


class CobsCodec(Codec):
    """Packets, decoded. One whose codes lead beyond its end is skipped as garbage."""

    def __init__(self, settings: Cobs) -> None:
        super().__init__()
        self._limit = settings.frame_limit_bytes
        self._pieces = Splitter(b"\0", self._limit + self._limit // _RUN + 1, self.counts)

    def feed(self, data: bytes) -> list[bytes]:
        frames = []
        for piece in self._pieces.feed(data):
            packet = decoded(piece) if piece else None
            if packet is None:
                self.counts["garbage_bytes"] += len(piece)
            elif len(packet) > self._limit:
                self.counts["too_long"] += 1
            else:
                frames.append(packet)
        return frames

    def reset(self) -> None:
        self.counts["incomplete"] += self._pieces.begun
        self._pieces.clear()

    def encode(self, body: bytes) -> bytes:
        return encoded(body) + b"\0"


def encoded(body: bytes) -> bytes:
    """`body` without zeros, its terminator not included."""
    out = bytearray()
    runs = body.split(b"\0")
    for number, run in enumerate(runs, 1):
        while len(run) >= _RUN:
            out.append(_RUN + 1)
            out += run[:_RUN]
            run = run[_RUN:]
            if not run and number == len(runs):
                return bytes(out)  # the code 255 has said already that no zero follows
        out.append(len(run) + 1)
        out += run
    return bytes(out)


def decoded(piece: bytes) -> bytes | None:
    """What was encoded as `piece`, which holds no zero; None if it is broken."""
    out = bytearray()
    at, size = 0, len(piece)
    while at < size:
        code = piece[at]
        stop = at + code
        if stop > size:
            return None
        out += piece[at + 1 : stop]
        if code <= _RUN and stop < size:
            out.append(0)
        at = stop
    return bytes(out)
