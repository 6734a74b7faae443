"""`slip`: RFC 1055, a packet between END bytes with END and ESC escaped."""

from __future__ import annotations

import re

from msgspec import Struct

from edgehost.framing.codec import Codec, FrameLimit
from edgehost.framing.splitter import Splitter

_END, _ESC = b"\xc0", b"\xdb"
_ESC_END, _ESC_ESC = b"\xdb\xdc", b"\xdb\xdd"
_BROKEN = re.compile(rb"\xdb(?![\xdc\xdd])")


class Slip(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="slip"):
    """`framing = "slip"`."""

    frame_limit_bytes: FrameLimit = 65536


class SlipCodec(Codec):
    """Packets, unescaped. One with an escape that stands for nothing is skipped as garbage."""

    def __init__(self, settings: Slip) -> None:
        super().__init__()
        self._limit = settings.frame_limit_bytes
        self._pieces = Splitter(_END, 2 * self._limit, self.counts)  # escaping doubles a packet at the most

    def feed(self, data: bytes) -> list[bytes]:
        pieces = [piece for piece in self._pieces.feed(data) if piece]
        return [packet for piece in pieces if (packet := self._decoded(piece)) is not None]

    def reset(self) -> None:
        self.counts["incomplete"] += self._pieces.begun
        self._pieces.clear()

    def encode(self, body: bytes) -> bytes:
        return _END + body.replace(_ESC, _ESC_ESC).replace(_END, _ESC_END) + _END

    def _decoded(self, piece: bytes) -> bytes | None:
        if _ESC in piece:
            if _BROKEN.search(piece):
                self.counts["garbage_bytes"] += len(piece)
                return None
            piece = piece.replace(_ESC_END, _END).replace(_ESC_ESC, _ESC)
        if len(piece) > self._limit:
            self.counts["too_long"] += 1
            return None
        return piece
