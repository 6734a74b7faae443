"""Splitter: a stream cut at a terminator, in linear time and bounded memory whatever comes. Shared by all framings that have one.

    collecting   terminator        a piece, if it is within the limit
    collecting   over the limit    too_long; skipping
    skipping     terminator        collecting
"""

from __future__ import annotations

from collections import Counter


class Splitter:
    """Pieces between terminators, without them. Counts `too_long` in the counter it is given."""

    def __init__(self, terminator: bytes, limit_bytes: int, counts: Counter[str]) -> None:
        self._terminator = terminator
        self._overlap = len(terminator) - 1
        self._limit = limit_bytes
        self._counts = counts
        self._held = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces that `data` completes."""
        held = self._held
        seam = max(0, len(held) - self._overlap)
        held += data
        if held.find(self._terminator, seam) < 0:
            self._bound()
            return []
        pieces = bytes(held).split(self._terminator)
        held[:] = pieces.pop()
        if self._skipping:
            self._skipping = False
            del pieces[0]
        self._bound()
        return pieces if all(len(piece) <= self._limit for piece in pieces) else self._short(pieces)

    def take(self) -> bytes:
        """What stands before the next terminator, taken out; empty if it was too long."""
        held = b"" if self._skipping else bytes(self._held)
        self.clear()
        return held if len(held) <= self._limit else b"".join(self._short([held]))

    def clear(self) -> None:
        """Forget what has come since the last terminator."""
        self._held.clear()
        self._skipping = False

    @property
    def begun(self) -> bool:
        """Whether something stands before the next terminator."""
        return bool(self._held) and not self._skipping

    def _bound(self) -> None:
        # The last bytes may be the first of a terminator, so that many more than the limit are kept.
        if len(self._held) <= (0 if self._skipping else self._limit) + self._overlap:
            return
        self._counts["too_long"] += not self._skipping
        self._skipping = True
        del self._held[: len(self._held) - self._overlap]

    def _short(self, pieces: list[bytes]) -> list[bytes]:
        short = [piece for piece in pieces if len(piece) <= self._limit]
        self._counts["too_long"] += len(pieces) - len(short)
        return short
