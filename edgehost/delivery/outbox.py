"""Outbox: all lanes together. One limit in bytes for what waits on disk, and who makes room for whom.

    room                              stored at once
    no room, others to be dropped     stored when they have gone
    no room, `block`                  waits; so does all that the same function stores after it
    no room, else                     dropped
    the agent or the function ends    nobody waits: what may not be dropped is stored beyond the limit

What one function stores is asked for in the order in which it comes. Knows lanes; must not know how a message leaves, or what it
says.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from edgehost.delivery.direct import settle
from edgehost.delivery.drops import LOW, Verdict, verdict
from edgehost.delivery.item import Data, Item, encode
from edgehost.delivery.journal import Journal
from edgehost.delivery.lane import Lane
from edgehost.delivery.numbers import Numbers
from edgehost.delivery.rows import Change, StoredRow
from edgehost.parcel import Parcel

Rows = list["tuple[tuple[Lane, Item], StoredRow]"]
Asked = tuple[Lane, Parcel, Data]

_FULL = "more wait than there is room for; raise store.quota or [journal] outbox, or let `store.full` say which of them goes"
_DISK_FULL = "the disk is nearly full and their priority is low; make room on the file system of [agent] state"


class Outbox:
    """One for the agent."""

    def __init__(self, journal: Journal, limit_bytes: int, drain_per_s: float) -> None:
        self.limit_bytes = limit_bytes
        self.lanes: dict[tuple[str, str], Lane] = {}
        self.numbers = Numbers(journal)
        self._journal = journal
        self._drain_per_s = drain_per_s
        self._most_bytes = limit_bytes
        """What the limit is when the disk has room."""
        self._turns: dict[str, asyncio.Lock] = {}
        self._asking: Counter[str] = Counter()
        """How many wait for their turn, or have it, by function."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._blocked: set[asyncio.Future[None]] = set()
        self._hurried: Counter[str] = Counter()
        """Functions whose messages wait for no room, and how often that was asked for."""
        self._ending = False

    @property
    def bytes(self) -> int:
        """Waiting on disk, of all outputs."""
        return sum(lane.bytes for lane in self.lanes.values())

    def lane(self, function: str, output: str) -> Lane:
        """The lane of one output, made when it is first asked for."""
        key = (function, output)
        if key not in self.lanes:
            self.lanes[key] = Lane(
                function, output, self._journal, self.numbers, self._drain_per_s, self.keep, self._room, self._yields
            )
        return self.lanes[key]

    def keep(self, lane: Lane, parcel: Parcel) -> asyncio.Future[None]:
        """Put one message on disk; done when it is there, or dropped by the lane's policy. Begun at once: what is sent after it
        comes after it.
        """
        data = encode(parcel)
        safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._asking[lane.function] and self._verdict(lane, len(data), set()).what == "store":
            self._put(lane, parcel, data, safe)
        else:
            self._asking[lane.function] += 1
            lane.tally.expect(parcel.to)
            task = asyncio.get_running_loop().create_task(self._store_later(lane, parcel, data, safe))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return safe

    async def _store_later(self, lane: Lane, parcel: Parcel, data: Data, safe: asyncio.Future[None]) -> None:
        try:
            async with self._turn(lane.function):
                try:
                    admitted = await self._admitted(lane, len(data))
                finally:
                    lane.tally.forgo(parcel.to)
                if admitted:
                    self._put(lane, parcel, data, safe)
                else:
                    settle(safe)
        except Exception as error:  # the journal takes nothing any more: its caller is told, and nobody else
            settle(safe, error)
        finally:
            self._asking[lane.function] -= 1

    def _put(self, lane: Lane, parcel: Parcel, data: Data, safe: asyncio.Future[None]) -> None:
        item, row = lane.prepare(parcel, data, numbered=True)
        self._journal.commit(Change(stored=(row,)), partial(_written, lane, item, safe))

    async def rows(self, parcels: list[tuple[Lane, Parcel]]) -> Rows:
        """Rows for somebody's transaction, which has to follow at once: their places are taken. What is dropped has none.

        All of them are of one function.
        """
        if not parcels:
            return []
        asked = [(lane, parcel, encode(parcel)) for lane, parcel in parcels]
        function = parcels[0][0].function
        admitted: list[Asked] = []
        self._asking[function] += 1
        try:
            if self._asking[function] > 1 or not self._all_fit(asked, admitted):
                await self._admit(function, asked[len(admitted) :], admitted)
        finally:
            self._asking[function] -= 1
            for lane, _, data in admitted:
                lane.tally.unreserve(len(data))
        rows: Rows = []
        for lane, parcel, data in admitted:
            item, row = lane.prepare(parcel, data, numbered=True)
            rows.append(((lane, item), row))
        return rows

    def _all_fit(self, asked: list[Asked], admitted: list[Asked]) -> bool:
        """Admit as many as there is room for without a pause; True if that is all of them."""
        for one in asked:
            lane, _, data = one
            if self._verdict(lane, len(data), set()).what != "store":
                return False
            lane.tally.reserve(len(data))
            admitted.append(one)
        return True

    async def _admit(self, function: str, asked: list[Asked], admitted: list[Asked]) -> None:
        waiting = [*admitted, *asked]
        for lane, parcel, _ in waiting:
            lane.tally.expect(parcel.to)
        try:
            async with self._turn(function):
                for one in asked:
                    lane, _, data = one
                    if await self._admitted(lane, len(data)):
                        lane.tally.reserve(len(data))
                        admitted.append(one)
        finally:
            for lane, parcel, _ in waiting:
                lane.tally.forgo(parcel.to)

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
                freed += await lane.evict(size_bytes - freed, _DISK_FULL)
        return freed

    def limit(self, limit_bytes: int) -> None:
        """So much may wait on disk from now on; whoever is blocked looks again."""
        self.limit_bytes = limit_bytes
        self._room()

    def hurry(self) -> None:
        """The agent is about to end: nobody waits for room any longer."""
        self._ending = True
        self._room()

    @contextmanager
    def hurried(self, function: str) -> Iterator[None]:
        """Meanwhile nothing of this function waits for room: its triggers end, and the room may be days away."""
        self._hurried[function] += 1
        self._room()
        try:
            yield
        finally:
            self._hurried[function] -= 1

    def close(self) -> None:
        """The agent ends."""
        self.hurry()
        for lane in self.lanes.values():
            lane.close()

    def _yields(self, lane: Lane, receiver: str) -> bool:
        priority = lane.rules.priority
        return any(other.rules.priority > priority and other.drains(receiver) for other in self.lanes.values())

    def _turn(self, function: str) -> asyncio.Lock:
        """Whoever has it is the next of this function to get room."""
        if function not in self._turns:
            self._turns[function] = asyncio.Lock()
        return self._turns[function]

    def _verdict(self, lane: Lane, size_bytes: int, barren: set[int]) -> Verdict:
        others = [other.fill for other in self.lanes.values() if other is not lane and other.queue not in barren]
        mine = lane.fill
        if lane.queue in barren:
            mine = mine._replace(evictable=False)
        return verdict(
            size_bytes, mine, lane.rules.quota_bytes, lane.rules.full, self.bytes, self.limit_bytes, others, self._most_bytes
        )

    async def _admitted(self, lane: Lane, size_bytes: int) -> bool:
        barren: set[int] = set()
        """Queues from which nothing more can go: all that is left of them is leaving."""
        while True:
            found = self._verdict(lane, size_bytes, barren)
            if found.what == "store" or (found.what == "block" and (self._ending or self._hurried[lane.function])):
                return True
            if found.what == "evict":
                victim = next(other for other in self.lanes.values() if other.queue == found.victim)
                if not await victim.evict(found.bytes, _FULL):
                    barren.add(victim.queue)
            elif found.what == "block":
                await self._until_room()
            else:
                lane.dropped(1, _FULL)
                return False

    async def _until_room(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._blocked.add(waiter)
        await waiter

    def _room(self) -> None:
        """Everybody who waits looks again: there is one of each function at most."""
        blocked, self._blocked = self._blocked, set()
        for waiter in blocked:
            settle(waiter)


def _written(lane: Lane, item: Item, safe: asyncio.Future[None], _result: Any, error: BaseException | None) -> None:
    if error is None:
        lane.stored(item)
    else:
        lane.never_stored(item)
    settle(safe, error)
