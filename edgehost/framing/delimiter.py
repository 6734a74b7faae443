"""`delimiter`: frames between a start and an end, or cut at one of the two.

    start and end    from the last start before an end to that end; a start inside of a frame begins it anew
    end alone        everything up to an end
    start alone      from one start to the next; also when the two are the same bytes, as in HDLC
What stands before a first start is garbage, however long it is.
"""

from __future__ import annotations

from msgspec import Struct

from edgehost.framing.codec import Codec, FrameLimit, Gap
from edgehost.framing.notation import octets
from edgehost.framing.splitter import Splitter


class Delimiter(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="delimiter"):
    """`framing = { kind = "delimiter", ... }`."""

    start: str = ""
    """What a frame begins with, as text or as 0x and hexadecimal."""
    end: str = ""
    keep: bool = False
    """Whether start and end stay in the frames."""
    gap_s: Gap = 0.0
    """With a start alone: a frame ends when nothing has come for so long, too; 0: only at the next start."""
    frame_limit_bytes: FrameLimit = 65536

    def __post_init__(self) -> None:
        if not octets("start", self.start) and not octets("end", self.end):
            raise ValueError('give start, end or both, as in end = ";" or start = "0x02"')
        if self.gap_s and self.end and self.end != self.start:
            raise ValueError("gap_s: goes with a start alone; the end is what ends a frame here")


class EndCodec(Codec):
    """An end alone."""

    def __init__(self, settings: Delimiter) -> None:
        super().__init__()
        self._end = octets("end", settings.end)
        self._kept = self._end if settings.keep else b""
        self._pieces = Splitter(self._end, settings.frame_limit_bytes, self.counts)

    def feed(self, data: bytes) -> list[bytes]:
        return [piece + self._kept for piece in self._pieces.feed(data)]

    def reset(self) -> None:
        self.counts["incomplete"] += self._pieces.begun
        self._pieces.clear()

    def encode(self, body: bytes) -> bytes:
        return _clean(body, self._end) + self._end


class StartCodec(Codec):
    """A start alone, or the same bytes on both sides."""

    def __init__(self, settings: Delimiter) -> None:
        super().__init__()
        self.gap_s = settings.gap_s
        self._start = octets("start", settings.start)
        self._end = octets("end", settings.end)
        self._keep = settings.keep
        self._pieces = Splitter(self._start, settings.frame_limit_bytes, self.counts)
        self._started = False
        self._before = b""
        """The last bytes before the first start: they could be the beginning of it."""

    def feed(self, data: bytes) -> list[bytes]:
        if not self._started:
            data = self._from_start(data)
        return [self._frame(piece) for piece in self._pieces.feed(data) if piece] if self._started else []

    def idle(self) -> list[bytes]:
        """What stands after a start is a frame; the next one needs a start of its own."""
        last = self._pieces.take()
        self._begin_anew()
        return [self._frame(last)] if last else []

    def finish(self) -> list[bytes]:
        return self.idle()

    def reset(self) -> None:
        self.counts["incomplete"] += self._pieces.begun
        self._pieces.clear()
        self._begin_anew()

    def encode(self, body: bytes) -> bytes:
        return self._start + _clean(body, self._start) + self._end

    def _from_start(self, data: bytes) -> bytes:
        """What follows the first start, if it has come. The splitter would take what stands before it for a frame."""
        before = self._before + data
        at = before.find(self._start)
        self._started = at >= 0
        if not self._started:
            at = max(0, len(before) - len(self._start) + 1)
        self.counts["garbage_bytes"] += at
        self._before = b"" if self._started else before[at:]
        return before[at + len(self._start) :]

    def _begin_anew(self) -> None:
        self.counts["garbage_bytes"] += len(self._before)
        self._before = b""
        self._started = False

    def _frame(self, piece: bytes) -> bytes:
        return self._start + piece + self._end if self._keep else piece


class BothCodec(Codec):
    """A start and another end."""

    def __init__(self, settings: Delimiter) -> None:
        super().__init__()
        self._start = octets("start", settings.start)
        self._end = octets("end", settings.end)
        self._keep = settings.keep
        self._limit = settings.frame_limit_bytes
        self._held = bytearray()
        """Begins with a start, or could be the beginning of one."""

    def feed(self, data: bytes) -> list[bytes]:
        held, start, end = self._held, self._start, self._end
        seam = len(held) - max(len(start), len(end)) + 1  # what stands before has been searched
        held += data
        frames = []
        at = self._to_start(0)
        while held.startswith(start, at):
            stop = held.find(end, max(at + len(start), seam))
            at = self._last_start(at, max(at + len(start), seam), len(held) if stop < 0 else stop)
            if stop < 0:
                break
            frames.append((at, stop))
            at = self._to_start(stop + len(end))
            seam = 0
        whole = [bytes(held[begin + len(start) : stop]) for begin, stop in frames]
        del held[:at]
        self._bound()
        return [self._frame(body) for body in whole if self._fits(body)]

    def reset(self) -> None:
        self.counts["incomplete"] += self._held.startswith(self._start)
        self._held.clear()

    def encode(self, body: bytes) -> bytes:
        return self._start + _clean(body, self._end, self._start) + self._end

    def _to_start(self, at: int) -> int:
        """Where the next start is, or could be once more has come; what stands before it is garbage."""
        found = self._held.find(self._start, at)
        if found < 0:
            found = len(self._held)
            for kept in range(min(len(self._start) - 1, found - at), 0, -1):
                if self._held.endswith(self._start[:kept]):
                    found -= kept
                    break
        self.counts["garbage_bytes"] += found - at
        return found

    def _last_start(self, at: int, after: int, before: int) -> int:
        """The last start, where there is another than the one at `at`: the frame that began there never ended."""
        last = self._held.rfind(self._start, after, before)
        if last < 0:
            return at
        self.counts["garbage_bytes"] += last - at
        return last

    def _bound(self) -> None:
        if len(self._held) > len(self._start) + self._limit + len(self._end) - 1:
            self.counts["too_long"] += 1
            del self._held[: self._to_start(len(self._start))]

    def _fits(self, body: bytes) -> bool:
        self.counts["too_long"] += len(body) > self._limit
        return len(body) <= self._limit

    def _frame(self, body: bytes) -> bytes:
        return self._start + body + self._end if self._keep else body


def delimiter_codec(settings: Delimiter) -> Codec:
    """The codec for what `settings` give of start and end."""
    if settings.start in ("", "0x"):
        return EndCodec(settings)
    alone = settings.end in ("", "0x") or octets("end", settings.end) == octets("start", settings.start)
    return StartCodec(settings) if alone else BothCodec(settings)


def _clean(body: bytes, *marks: bytes) -> bytes:
    for mark in marks:
        if mark in body:
            raise ValueError(f"the answer holds 0x{mark.hex()}, which would end or begin a frame; encode it first")
    return body
