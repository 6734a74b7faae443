"""`regex`: each match of a pattern is a frame, for what no other framing describes."""

from __future__ import annotations

import re

from msgspec import Struct

from edgehost.framing.codec import Codec, FrameLimit


class Regex(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="regex"):
    r"""`framing = { kind = "regex", pattern = '<([^>]*)>' }`."""

    pattern: str
    """A regular expression of Python's `re`, over bytes. It must itself say what closes a frame: a match is taken as soon as it
    is there. Its first group is the frame if it has one, else the whole match."""
    frame_limit_bytes: FrameLimit = 1024
    """The longest match. Longer without one: the oldest bytes are garbage."""

    def __post_init__(self) -> None:
        try:
            pattern = re.compile(self.pattern.encode())
        except re.error as error:
            raise ValueError(f"pattern: {self.pattern!r} is no regular expression: {error}") from None
        if pattern.search(b""):
            raise ValueError(f"pattern: {self.pattern!r} matches nothing at all, too; use one that needs at least one byte")


class RegexCodec(Codec):
    """Matches, in order; what stands between them is garbage."""

    def __init__(self, settings: Regex) -> None:
        super().__init__()
        self._pattern = re.compile(settings.pattern.encode())
        self._group = min(self._pattern.groups, 1)
        self._limit = settings.frame_limit_bytes
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        data = self._held + data
        frames = []
        stop = 0
        for found in self._pattern.finditer(data):
            if found.end() == found.start():
                continue
            self.counts["garbage_bytes"] += found.start() - stop
            stop = found.end()
            if stop - found.start() > self._limit:
                self.counts["too_long"] += 1
            else:
                frames.append(found[self._group] or b"")
        kept = max(stop, len(data) - self._limit)
        self.counts["garbage_bytes"] += kept - stop
        self._held = data[kept:]
        return frames

    def reset(self) -> None:
        self.counts["garbage_bytes"] += len(self._held)
        self._held = b""

    def encode(self, body: bytes) -> bytes:
        return body
