"""Allowance: how much may wait on disk to be handled, of all sources together.

    room           taken
    none           their sources wait, and are told when there is some
    refused        nothing is taken whatever the sizes say: the disk is nearly full, or takes nothing at all

Numbers alone; must not know events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Allowance:
    """How much may wait on disk: one for the whole agent. `refusal` is why nothing more is taken whatever the sizes say."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.events = 0
        self.refusal = ""
        self.on_room: list[Callable[[], None]] = []
        self.on_refusal: list[Callable[[], None]] = []
        """Called when `refusal` has come to be, so that it shows before the next event comes."""
        self._refusals: dict[str, str] = {}

    def reason(self) -> str:
        """Why no further event is taken now; "" if one is."""
        if self.refusal:
            return self.refusal
        if self.used_bytes >= self.limit_bytes:
            return (
                f"{self.events} durable events ({self.used_bytes} bytes) wait already, which is all [journal] events allows; "
                "their sources wait until the functions have caught up"
            )
        return ""

    def refuse(self, by: str, reason: str) -> None:
        """Take nothing more for `reason`, until the same `by` says "". Several may have theirs: the first one's is told."""
        self._refusals.pop(by, None)
        if reason:
            self._refusals[by] = reason
        self.refusal = next(iter(self._refusals.values()), "")
        if not self.refusal:
            self.room()
        else:
            for tell in tuple(self.on_refusal):
                tell()

    def count(self, sizes: Iterable[tuple[int, int]]) -> None:
        """What the journal holds, as (events, bytes) of each source: at its opening, or after something of it was lost."""
        known = list(sizes)
        self.events, self.used_bytes = sum(events for events, _ in known), sum(size_bytes for _, size_bytes in known)
        self.room()

    def take(self, size_bytes: int) -> None:
        self.used_bytes += size_bytes
        self.events += 1

    def give_back(self, size_bytes: int) -> None:
        """An event has gone from the disk."""
        was_full = self.used_bytes >= self.limit_bytes
        self.used_bytes = max(0, self.used_bytes - size_bytes)
        self.events = max(0, self.events - 1)
        if was_full and self.used_bytes < self.limit_bytes:
            self.room()

    def room(self) -> None:
        """There may be room again: each time another source is the first to take it."""
        if self.on_room:
            self.on_room.append(self.on_room.pop(0))
        for tell in tuple(self.on_room):
            tell()
