"""ReceiveBuffer: where bytes of a channel wait until their frame is whole. Both ends of a channel use it; knows no frames."""

from __future__ import annotations

import mmap

SIZE = 256 * 1024
"""Bytes it has room for at first. Anonymous pages: those never received into do not exist."""


class ReceiveBuffer:
    """`view[:have]` are bytes received. Receive into `room()`, add the count to `have`, take whole frames, `keep` the rest."""

    def __init__(self) -> None:
        self.view = memoryview(mmap.mmap(-1, SIZE))
        self.have = 0

    def room(self) -> memoryview:
        """The free part; never empty after `keep`."""
        return self.view[self.have :]

    def keep(self, at: int, needed: int) -> None:
        """Keep the bytes from `at` on, which begin a frame of `needed` bytes in all (0: of unknown size, or there are none)."""
        rest = self.have - at
        if needed > len(self.view) or (not rest and len(self.view) > SIZE):
            view = memoryview(mmap.mmap(-1, max(SIZE, needed)))
            view[:rest] = self.view[at : self.have]
            self.view = view
        elif at and rest:
            self.view[:rest] = self.view[at : self.have]
        self.have = rest

    def require(self, size: int) -> None:
        """Make room for `size` more bytes."""
        if len(self.view) - self.have < size:
            self.keep(0, self.have + size)
