"""`line`: text lines, by any terminator."""

from __future__ import annotations

from msgspec import Struct

from edgehost.framing.codec import Codec, FrameLimit
from edgehost.framing.notation import octets
from edgehost.framing.splitter import Splitter


class Line(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="line"):
    r"""`framing = "line"`."""

    terminator: str = ""
    r"""What ends a line, as text or as 0x and hexadecimal. Empty: each of \n, \r\n and \r does, and answers end with \n."""
    keep_empty: bool = False
    """Whether an empty line is a frame."""
    frame_limit_bytes: FrameLimit = 65536

    def __post_init__(self) -> None:
        octets("terminator", self.terminator)


class LineCodec(Codec):
    """Lines without their terminators."""

    def __init__(self, settings: Line) -> None:
        super().__init__()
        self._any = not settings.terminator
        self._terminator = octets("terminator", settings.terminator) or b"\n"
        self._keep_empty = settings.keep_empty
        self._lines = Splitter(self._terminator, settings.frame_limit_bytes, self.counts)
        self._after_return = False

    def feed(self, data: bytes) -> list[bytes]:
        lines = self._lines.feed(self._newlines(data) if self._any else data)
        return lines if self._keep_empty else [line for line in lines if line]

    def finish(self) -> list[bytes]:
        """The last line needs no terminator."""
        last = self._lines.take()
        self._after_return = False
        return [last] if last else []

    def reset(self) -> None:
        self.counts["incomplete"] += self._lines.begun
        self._lines.clear()
        self._after_return = False

    def encode(self, body: bytes) -> bytes:
        return body + self._terminator

    def _newlines(self, data: bytes) -> bytes:
        r"""`data` with \n for every terminator; the \n after a \r that ended the chunk before is part of that one."""
        if self._after_return and data[:1] == b"\n":
            data, self._after_return = data[1:], False
        if b"\r" not in data:
            self._after_return = self._after_return and not data
            return data
        self._after_return = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
