"""Lane: the way out of one output. Straight to its receiver while that works, over the disk when it does not.

    direct      nothing is stored, the receiver can be reached     `send` is the output's own
    spilled     sent direct, unanswered for SPILL_S, or the        stored too, and counts as safe; gone from the disk when
                receiver went away meanwhile                       its receiver has it after all
    stored      behind others to the same place, receiver away,    leaves in its turn, `window` at a time
                or part of an event's transaction
    away        the receiver could not take it                     stays first; again after a back-off
    refused     the receiver will never take it                    a dead letter
    expired     waited longer than `store.ttl`                     dropped and counted

What goes to one place (a topic, a URL) leaves in the order in which it came. A message that was held up is marked late.
Without a journal everything goes direct. Must not know what an output is made of, or why something is sent.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

import msgspec

from edgehost.backoff import Backoff
from edgehost.delivery import faults
from edgehost.delivery.drops import Fill, Pace
from edgehost.delivery.journal import Journal
from edgehost.delivery.rows import Change, DeadRow, StoredRow, first_place
from edgehost.errors import AwayError, EdgehostError
from edgehost.event import Event, Response
from edgehost.manifest.model import Store
from edgehost.parcel import Parcel
from edgehost.plugin import Forwarding

LaneState = Literal["direct", "waiting", "leaving", "memory"]

SPILL_S = 1.0
LATE_S = 1.0
_READY = 512
_READY_BYTES = 2 * 1024 * 1024
_PAGE = 128
_TELL_S = 10.0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Parcel).decode


class Item:
    """One message on disk, or on its way there."""

    __slots__ = ("at", "parcel", "place", "size_bytes", "until")

    def __init__(self, place: int, parcel: Parcel, at: float, until: float | None, size_bytes: int) -> None:
        self.place, self.parcel, self.at, self.until, self.size_bytes = place, parcel, at, until, size_bytes


class Lane:
    """One for each output of each function; it outlives the versions of the function."""

    def __init__(
        self,
        function: str,
        name: str,
        journal: Journal,
        drain_per_s: float,
        keep: Callable[[Lane, Parcel], Awaitable[None]],
        room: Callable[[], None],
    ) -> None:
        """`keep(lane, parcel)` puts one on disk if there is room for it; `room()` is called when something has left the disk."""
        self.function = function
        self.name = name
        self.rules = Store()
        self.bytes = 0
        """Stored, or about to be."""
        self.count = 0
        self.counts: Counter[str] = Counter()
        """`stored`, `left`, `dropped`, `expired`, `refused` since the start."""
        self.queue = 0
        self._journal = journal
        self._drain_per_s = drain_per_s
        self._keep = keep
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._log = logging.getLogger("edgehost.outbox")
        self._output: Forwarding | None = None
        self.opened = False
        """False: there is no journal, and everything goes direct."""
        self._direct: dict[asyncio.Future[None], tuple[Event, Response]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[Item] = deque()
        self._waiting_bytes = 0
        self._leaving: dict[int, Item] = {}
        self._tos: Counter[str] = Counter()
        """How many stored messages go to each place."""
        self._loaded = 0
        self._loading = False
        self._evicting = False
        self._backoff = Backoff(0.5, 60.0)
        self._away_until = 0.0
        self._pace = Pace(drain_per_s, time.monotonic())
        self._pump_at: asyncio.TimerHandle | None = None
        self._spill_at: asyncio.TimerHandle | None = None
        self._told_at = -_TELL_S
        self._closed = False

    @property
    def fill(self) -> Fill:
        return Fill(self.queue, self.rules.priority, self.bytes)

    @property
    def state(self) -> LaneState:
        """How it is, in a word."""
        if not self.opened:
            return "memory"
        if not self.count:
            return "direct"
        return "leaving" if self._output is not None and self._output.reachable and not self._resting() else "waiting"

    async def open(self) -> None:
        """Find what an earlier run has left. Raises StateError if the journal cannot be used; then all goes direct."""
        if self.opened:
            return
        await self._journal.open()
        self.queue = await self._journal.queue("parcel", self.function, self.name)
        if self.opened:
            return
        first, end = first_place(self.queue), first_place(self.queue + 1)
        for to, count, size in await self._journal.ask(lambda connection: _by_place(connection, first, end)):
            self._tos[to] += count
            self.count += count
            self.bytes += size
        self._loaded = first - 1
        self.opened = True

    def attach(self, output: Forwarding, rules: Store) -> None:
        """From now on this is the way out."""
        self._output, self.rules = output, rules
        output.on_reachable(partial(self._reached, output))
        self._pump()

    def detach(self, output: Forwarding) -> None:
        """`output` ends: what it has not got rid of is stored."""
        if output is self._output:
            self._spill()
            self._output = None

    def close(self) -> None:
        """The agent ends: what is under way is stored, and nothing more leaves from the disk."""
        self._closed = True
        self._spill()
        for timer in (self._pump_at, self._spill_at):
            if timer is not None:
                timer.cancel()

    def send(self, event: Event, response: Response) -> Awaitable[None] | None:
        """As Output.send: None, or an awaitable that ends when the answer is safe, with its receiver or on disk.

        Raises TriggerError for one that can never leave.
        """
        output = self._output
        if output is None:
            raise AwayError(f"[outputs.{self.name}] has ended")
        if not self.opened:
            return output.send(event, response)
        if not output.reachable or (self._away_until and self._resting()) or (self.count and self._behind(event, response)):
            return self._keep(self, output.pack(event, response))
        try:
            wait = output.send(event, response)
        except AwayError:
            return self._keep(self, output.pack(event, response))
        if wait is None:
            return None
        return self._watch(wait, event, response) if isinstance(wait, asyncio.Future) else self._or_keep(wait, event, response)

    def prepare(self, parcel: Parcel) -> tuple[Item, StoredRow]:
        """A row for a transaction of somebody else's; `stored` or `never_stored` says what became of it."""
        place = self._journal.take_places("parcel", self.queue)
        data = _encode(parcel)
        now = self._journal.now()
        until = now + self.rules.ttl_s if self.rules.ttl_s is not None else None
        item = Item(place, parcel, now, until, len(data))
        self.count += 1
        self.bytes += item.size_bytes
        self._tos[parcel.to] += 1
        return item, StoredRow(place, parcel.to, data, now, until)

    def stored(self, item: Item) -> None:
        """It is on disk: it leaves in its turn."""
        faults.at("outbox.stored")
        self.counts["stored"] += 1
        self._pace.arrived(time.monotonic())
        if self._loaded == item.place - 1 and not self._loading and self._fits_in_memory():
            self._loaded = item.place
            self._waiting.append(item)
            self._waiting_bytes += item.size_bytes
        self._pump()

    def never_stored(self, item: Item) -> None:
        """It did not get into the journal."""
        self._forget(item)

    async def evict(self, size_bytes: int) -> int:
        """Drop the oldest messages, at least so many bytes of them if there are; gives how many bytes went."""
        self._evicting = True
        keep, first, end = tuple(self._leaving), first_place(self.queue), first_place(self.queue + 1)
        try:
            gone = await self._journal.ask(lambda connection: _evict(connection, first, end, keep, size_bytes))
        finally:
            self._evicting = False
        places = {place for place, _, _ in gone}
        kept = [item for item in self._waiting if item.place not in places]
        self._waiting = deque(kept)
        self._waiting_bytes = sum(item.size_bytes for item in kept)
        for place, to, size in gone:
            self._forget(Item(place, Parcel(to), 0.0, None, size))
        self.dropped(len(gone), "the outbox is full")
        self._loaded = max(self._loaded, max(places, default=0))
        self._pump()
        return sum(size for _, _, size in gone)

    def dropped(self, count: int, why: str) -> None:
        """So many messages are lost, on purpose."""
        self.counts["dropped"] += count
        now = time.monotonic()
        if count and now - self._told_at > _TELL_S:
            self._told_at = now
            self._log.warning(
                "%s: messages of [outputs.%s] are dropped (%d since the start): %s", self.function, self.name,
                self.counts["dropped"], why,
            )  # fmt: skip

    # The direct way.

    def _behind(self, event: Event, response: Response) -> bool:
        """Whether others wait to go to the same place."""
        assert self._output is not None
        return self._output.pack(event, response).to in self._tos

    def _watch(self, wait: asyncio.Future[None], event: Event, response: Response) -> asyncio.Future[None]:
        if wait.done():
            return wait
        self._direct[wait] = (event, response)
        wait.add_done_callback(self._direct_done)
        if self._spill_at is None:
            self._spill_at = self._loop.call_later(SPILL_S, self._spill_if_stuck, wait)
        return wait

    def _direct_done(self, wait: asyncio.Future[None]) -> None:
        self._direct.pop(wait, None)

    def _spill_if_stuck(self, oldest: asyncio.Future[None]) -> None:
        """Something sent direct has waited for SPILL_S: it and all behind it are stored, in their order."""
        self._spill_at = None
        if oldest in self._direct:
            self._spill()
        elif self._direct:
            self._spill_at = self._loop.call_later(SPILL_S, self._spill_if_stuck, next(reversed(self._direct)))

    def _spill(self) -> None:
        """Store what is under way and cannot be taken back: its receiver may get it all the same, and then it goes."""
        output = self._output
        if output is None or not self.opened:
            return
        direct, self._direct = self._direct, {}
        for wait, (event, response) in direct.items():
            if wait.done():
                continue
            left = output.part(wait)
            if left is None:
                continue
            item, row = self.prepare(output.pack(event, response))
            self._leaving[item.place] = item
            if self._loaded == item.place - 1:
                self._loaded = item.place
            left.add_done_callback(partial(self._posted, item))
            self._journal.commit(Change(stored=(row,)), partial(self._spilled, wait, item))

    def _spilled(self, wait: asyncio.Future[None], item: Item, _result: None, error: BaseException | None) -> None:
        if error is None:
            self.counts["stored"] += 1
            if not wait.done():
                wait.set_result(None)
        elif not wait.done():
            wait.set_exception(error)

    async def _or_keep(self, wait: Awaitable[None], event: Event, response: Response) -> None:
        try:
            await wait
        except AwayError as error:
            self._rest(error)
            output = self._output
            if output is None:
                raise
            await self._keep(self, output.pack(event, response))

    # The way over the disk.

    def _reached(self, output: Forwarding) -> None:
        """The receiver came or went."""
        if output is not self._output or self._closed:
            return
        if output.reachable:
            self._away_until = 0.0
            self._backoff.reset()
            self._pump()
        else:
            self._spill()

    def _resting(self) -> bool:
        return self._away_until > time.monotonic()

    def _rest(self, error: Exception) -> None:
        """The receiver takes nothing now."""
        if not self._resting():
            delay_s = self._backoff.next()
            self._away_until = time.monotonic() + delay_s
            if self._backoff.failures == 1:
                self._log.warning("%s: [outputs.%s] waits on disk: %s", self.function, self.name, error)
            self._pump_in(delay_s)

    def _pump_in(self, delay_s: float) -> None:
        if self._pump_at is None:
            self._pump_at = self._loop.call_later(delay_s, self._pump_now)

    def _pump_now(self) -> None:
        self._pump_at = None
        self._pump()

    def _pump(self) -> None:
        """Send what waits, as far as it may."""
        output = self._output
        if output is None or self._closed or self._evicting or not self.opened:
            return
        waiting = self._waiting
        while waiting:
            item = waiting[0]
            if item.until is not None and item.until < self._journal.now():
                self._take_first()
                self._expire(item)
                continue
            if len(self._leaving) >= output.window or not output.reachable or self._resting():
                break
            late = self._journal.now() - item.at > LATE_S
            if late and (delay_s := self._pace.take(time.monotonic())):
                self._pump_in(delay_s)
                break
            self._take_first()
            self._post(output, item, late)
        if self._tos and not self._loading and len(waiting) < _PAGE // 2 and self.count > len(waiting) + len(self._leaving):
            self._load()
        if waiting and waiting[0].until is not None:
            self._pump_in(max(1.0, waiting[0].until - self._journal.now()))

    def _take_first(self) -> None:
        self._waiting_bytes -= self._waiting.popleft().size_bytes

    def _post(self, output: Forwarding, item: Item, late: bool) -> None:
        self._leaving[item.place] = item
        faults.at("outbox.claimed")
        wait: asyncio.Future[None]
        try:
            wait = asyncio.ensure_future(output.post(item.parcel, late))
        except Exception as error:
            wait = self._loop.create_future()
            wait.set_exception(error)
        faults.at("outbox.sent")
        wait.add_done_callback(partial(self._posted, item))

    def _posted(self, item: Item, done: asyncio.Future[None]) -> None:
        """Its receiver has it, or has said no."""
        faults.at("outbox.taken")
        self._leaving.pop(item.place, None)
        error = done.exception() if not done.cancelled() else AwayError("it was given up")
        if error is None:
            self.counts["left"] += 1
            self._backoff.reset()
            self._remove(item, Change(left=(item.place,)))
        elif isinstance(error, AwayError):
            index = next((index for index, other in enumerate(self._waiting) if other.place > item.place), len(self._waiting))
            self._waiting.insert(index, item)
            self._waiting_bytes += item.size_bytes
            self._rest(error)
            return
        else:
            self.counts["refused"] += 1
            self._log.error(
                "%s: [outputs.%s] a message is refused for good, see `edgehost dead-letters`: %s", self.function, self.name, error
            )
            self._remove(item, Change(left=(item.place,), dead=(self._letter(item, error),)))
        self._pump()

    def _expire(self, item: Item) -> None:
        self.counts["expired"] += 1
        self._remove(item, Change(left=(item.place,)))

    def _remove(self, item: Item, change: Change) -> None:
        self._forget(item)
        self._journal.commit(change, _left)

    def _forget(self, item: Item) -> None:
        self.count -= 1
        self.bytes -= item.size_bytes
        self._tos[item.parcel.to] -= 1
        if self._tos[item.parcel.to] <= 0:
            del self._tos[item.parcel.to]
        self._room()

    def _fits_in_memory(self) -> bool:
        return len(self._waiting) < _READY and self._waiting_bytes < _READY_BYTES

    def _letter(self, item: Item, error: BaseException) -> DeadRow:
        return DeadRow(
            function=self.function,
            trigger="",
            output=self.name,
            event_id=item.parcel.id,
            code="output_failed",
            error=str(error),
            attempts=1,
            received=item.parcel.published,
            failed=time.time(),
            at=self._journal.now(),
            body=_encode(item.parcel),
        )

    def _load(self) -> None:
        """Fetch the next page from disk."""
        self._loading = True
        known = self._journal.next_place("parcel", self.queue) - 1
        after, end = self._loaded, first_place(self.queue + 1)
        asked = self._journal.ask(lambda connection: _page(connection, after, end))
        asked.add_done_callback(partial(self._page_came, known))

    def _page_came(self, known: int, done: asyncio.Future[tuple[list[Item], bool]]) -> None:
        self._loading = False
        if done.cancelled() or self._closed:
            return
        if (error := done.exception()) is not None:
            if isinstance(error, EdgehostError):
                self._pump_in(5.0)
            else:
                self._log.error("%s: [outputs.%s] cannot be read from the journal: %s", self.function, self.name, error)
            return
        rows, more = done.result()
        for item in rows:
            if item.place > self._loaded and item.place not in self._leaving:
                self._waiting.append(item)
                self._waiting_bytes += item.size_bytes
        self._loaded = max([self._loaded, *(item.place for item in rows[-1:]), *(() if more else (known,))])
        if rows:
            self._pump()


def _left(_result: Any, _error: BaseException | None) -> None:
    """A message has gone from the disk. If that could not be written, it leaves again after the next start."""
    faults.at("outbox.left")


def _by_place(connection: sqlite3.Connection, first: int, end: int) -> list[tuple[str, int, int]]:
    select = 'SELECT "to", count(*), sum(length(parcel)) FROM outbox WHERE place >= ? AND place < ? GROUP BY "to"'
    return connection.execute(select, (first, end)).fetchall()


def _page(connection: sqlite3.Connection, after: int, end: int) -> tuple[list[Item], bool]:
    rows: list[Item] = []
    size_bytes = 0
    select = "SELECT place, parcel, at, until FROM outbox WHERE place > ? AND place < ? ORDER BY place"
    for place, data, at, until in connection.execute(select, (after, end)):
        rows.append(Item(place, _decode(data), at, until, len(data)))
        size_bytes += len(data)
        if len(rows) >= _PAGE or size_bytes >= _READY_BYTES:
            return rows, True
    return rows, False


def _evict(
    connection: sqlite3.Connection, first: int, end: int, keep: tuple[int, ...], size_bytes: int
) -> list[tuple[int, str, int]]:
    gone: list[tuple[int, str, int]] = []
    freed = 0
    select = 'SELECT place, "to", length(parcel) FROM outbox WHERE place >= ? AND place < ? ORDER BY place'
    for place, to, size in connection.execute(select, (first, end)):
        if place in keep:
            continue
        gone.append((place, to, size))
        freed += size
        if freed >= size_bytes:
            break
    connection.executemany("DELETE FROM outbox WHERE place = ?", [(place,) for place, _, _ in gone])
    return gone
