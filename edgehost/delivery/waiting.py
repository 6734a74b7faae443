"""Waiting: the messages of a lane that are in memory and have not left, in their order. Must not know where they come from."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator

from edgehost.delivery.item import Item


class Waiting:
    """By place: one that could not leave comes back to where it was."""

    def __init__(self) -> None:
        self.bytes = 0
        self.expires_at = math.inf
        """Not before then one of them expires, in seconds of the journal's clock."""
        self._heap: list[tuple[int, Item]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Item]:
        return (item for _, item in self._heap)

    @property
    def first(self) -> Item | None:
        return self._heap[0][1] if self._heap else None

    def push(self, item: Item) -> None:
        heapq.heappush(self._heap, (item.place, item))
        self.bytes += item.size_bytes
        if (until := _until(item)) < self.expires_at:
            self.expires_at = until

    def take_first(self) -> Item:
        _, item = heapq.heappop(self._heap)
        self.bytes -= item.size_bytes
        return item

    def take_expired(self, now: float) -> list[Item]:
        """What has waited too long, in order."""
        return self._take([each for each in self._heap if _until(each[1]) < now])

    def take_out(self, places: Collection[int]) -> list[Item]:
        """Those of these places."""
        return self._take([each for each in self._heap if each[0] in places])

    def _take(self, some: list[tuple[int, Item]]) -> list[Item]:
        if some:
            gone = {place for place, _ in some}
            self._heap = [each for each in self._heap if each[0] not in gone]
            heapq.heapify(self._heap)
            self.bytes -= sum(item.size_bytes for _, item in some)
        self.expires_at = min((_until(item) for item in self), default=math.inf)
        return [item for _, item in sorted(some)]


def _until(item: Item) -> float:
    """What its receiver has already does not expire: only the end of the exchange is left."""
    return math.inf if item.until is None or item.released else item.until
