"""Tally: how much one lane has on disk, or is about to have: messages, bytes, and where they go.

Numbers alone; must not know rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable


class Tally:
    """`room()` is called when there is less than before."""

    def __init__(self, room: Callable[[], None]) -> None:
        self.count = 0
        self.bytes = 0
        self.tos: Counter[str] = Counter()
        """How many go to each place: what comes for one that is here has to wait behind them. Never another object."""
        self._room = room

    def add(self, to: str, size_bytes: int, count: int = 1) -> None:
        self.count += count
        self.bytes += size_bytes
        self.tos[to] += count

    def remove(self, to: str, size_bytes: int) -> None:
        self.count -= 1
        self.bytes -= size_bytes
        self.forgo(to)
        self._room()

    def expect(self, to: str) -> None:
        """Something for this place waits for room: it counts as being before what comes, and as nothing else."""
        self.tos[to] += 1

    def forgo(self, to: str) -> None:
        """The end of `expect`."""
        self.tos[to] -= 1
        if self.tos[to] <= 0:
            del self.tos[to]

    def reserve(self, size_bytes: int) -> None:
        """So many bytes are somebody's who adds them later, and gives this back before."""
        self.bytes += size_bytes

    def unreserve(self, size_bytes: int) -> None:
        """The end of `reserve`."""
        self.bytes -= size_bytes
