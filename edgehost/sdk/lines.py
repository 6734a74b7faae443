"""A stand-in for `sys.stdout` and `sys.stderr` that gives whole lines to a function. Knows nothing of records or channels."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Callable
from typing import Any

from edgehost.sdk.ownership import Owner

LINE_MAX = 8192
"""Characters. A longer line is cut into pieces, so that a function that never writes a newline cannot fill the memory."""


unfinished: set[LineStream] = set()
"""The streams with text that has no newline yet: whoever ends an event asks these alone, and mostly there are none."""


class LineStream(io.TextIOBase):
    """Text in, `take(line)` out, without its newline. What has no newline yet waits for one, for LINE_MAX or for `end_event()`.

    `fileno()` is the real descriptor, which children of the function inherit. Other threads and forked children write straight to
    it, for `take` is for the owner's thread alone.
    """

    encoding = "utf-8"
    errors = "replace"
    mode = "w"
    line_buffering = True

    def __init__(self, take: Callable[[str], None], descriptor: int) -> None:
        self._take = take
        self._descriptor = descriptor
        self._partial = ""
        self._owner = Owner()
        self.buffer = _Bytes(self)
        self.name = "<stdout>" if descriptor == 1 else "<stderr>"

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not self._owner.here():
            _write_all(self._descriptor, text.encode("utf-8", "replace"))
            return len(text)
        *lines, partial = (self._partial + text).split("\n")
        self._partial = ""
        for line in lines:
            self._cut(line)
        whole = len(partial) - len(partial) % LINE_MAX
        if whole:
            self._cut(partial[:whole])
        self._partial = partial[whole:]
        if self._partial:
            unfinished.add(self)
        return len(text)

    def _cut(self, line: str) -> None:
        line = line.removesuffix("\r")
        for start in range(0, len(line) or 1, LINE_MAX):
            self._take(line[start : start + LINE_MAX])

    def end_event(self) -> None:
        """Give what still has no newline as a line: the event it belongs to is over."""
        unfinished.discard(self)
        if self._partial and self._owner.here():
            line, self._partial = self._partial, ""
            self._take(line)

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        """Nothing to do: a line is given when it is whole."""

    def close(self) -> None:
        """Stays open: a function that closes its standard output must not lose the next event's lines."""

    def reconfigure(self, **_options: Any) -> None:
        """Accepted as TextIOWrapper does; encoding and buffering are fixed here."""


class _Bytes(io.RawIOBase):
    """`sys.stdout.buffer`: UTF-8 in, text to the stream."""

    def __init__(self, stream: LineStream) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def write(self, data: Any) -> int:
        with memoryview(data) as view:
            self._stream.write(self._decode(bytes(view)))
            return view.nbytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        """Stays open, as its stream does."""


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
