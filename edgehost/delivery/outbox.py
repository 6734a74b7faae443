"""Outbox: all lanes together. One limit in bytes for what waits on disk, and who makes room for whom.

Knows lanes; must not know how a message leaves, or what it says.
"""

from __future__ import annotations

import asyncio
from collections import deque

from edgehost.delivery.drops import LOW, verdict
from edgehost.delivery.journal import Journal
from edgehost.delivery.lane import Item, Lane
from edgehost.delivery.rows import Change, StoredRow
from edgehost.parcel import Parcel

Rows = list["tuple[tuple[Lane, Item], StoredRow]"]

_OVERHEAD = 128
"""What a message takes beside its body, roughly: room is asked for before it is packed."""


class Outbox:
    """One for the agent."""

    def __init__(self, journal: Journal, limit_bytes: int, drain_per_s: float) -> None:
        self.limit_bytes = limit_bytes
        self.lanes: dict[tuple[str, str], Lane] = {}
        self._journal = journal
        self._drain_per_s = drain_per_s
        self._blocked: deque[asyncio.Future[None]] = deque()

    @property
    def bytes(self) -> int:
        """Waiting on disk, of all outputs."""
        return sum(lane.bytes for lane in self.lanes.values())

    def lane(self, function: str, output: str) -> Lane:
        """The lane of one output, made when it is first asked for."""
        key = (function, output)
        if key not in self.lanes:
            self.lanes[key] = Lane(function, output, self._journal, self._drain_per_s, self.store, self._room)
        return self.lanes[key]

    async def store(self, lane: Lane, parcel: Parcel) -> None:
        """Put one message on disk; returns when it is there, or when it is dropped by the lane's policy."""
        rows = await self.rows([(lane, parcel)])
        if not rows:
            return
        try:
            await self._journal.committed(Change(stored=tuple(row for _, row in rows)))
        except BaseException:
            self.never_stored(rows)
            raise
        self.stored(rows)

    async def rows(self, parcels: list[tuple[Lane, Parcel]]) -> Rows:
        """Rows for somebody's transaction, which has to follow at once: their places are taken. What is dropped has none."""
        admitted = [(lane, parcel) for lane, parcel in parcels if await self._admitted(lane, parcel)]
        rows: Rows = []
        for lane, parcel in admitted:
            item, row = lane.prepare(parcel)
            rows.append(((lane, item), row))
        return rows

    def stored(self, rows: Rows) -> None:
        """The transaction is on disk."""
        for (lane, item), _ in rows:
            lane.stored(item)

    def never_stored(self, rows: Rows) -> None:
        """The transaction did not come to be."""
        for (lane, item), _ in rows:
            lane.never_stored(item)

    async def shed(self, size_bytes: int) -> int:
        """Drop messages of low priority, the least important first; gives how many bytes went."""
        freed = 0
        for lane in sorted(self.lanes.values(), key=lambda lane: lane.rules.priority):
            if lane.rules.priority < LOW and lane.bytes and freed < size_bytes:
                freed += await lane.evict(size_bytes - freed)
        return freed

    def close(self) -> None:
        """The agent ends."""
        for lane in self.lanes.values():
            lane.close()
        self._room()

    async def _admitted(self, lane: Lane, parcel: Parcel) -> bool:
        size = len(parcel.body) + len(parcel.to) + _OVERHEAD
        while True:
            others = [other.fill for other in self.lanes.values() if other is not lane]
            found = verdict(size, lane.fill, lane.rules.quota_bytes, lane.rules.full, self.bytes, self.limit_bytes, others)
            if found.what == "store":
                return True
            if found.what == "evict":
                victim = next(other for other in self.lanes.values() if other.queue == found.victim)
                if await victim.evict(found.bytes):
                    continue
            elif found.what == "block":
                await self._until_room()
                continue
            lane.dropped(1, "the outbox is full")
            return False

    async def _until_room(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._blocked.append(waiter)
        await waiter

    def _room(self) -> None:
        while self._blocked:
            waiter = self._blocked.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
