"""Lane: the way out of one output. Straight to its receiver while that works, over the disk when it does not.

    direct      nothing to the same place is stored, the receiver can be reached    `send` is the output's own
    spilled     sent direct and not there: for a while, when the receiver went      stored too, and counts as safe; gone from the
                away, before anything else is stored, at the end of the output      disk when its receiver has it after all
    stored      behind others to the same place, receiver away, or part of an       leaves in its turn
                event's transaction

What goes to one place (a topic, a URL) leaves in the order in which it came. A message that was held up is marked late.
Without a journal everything goes direct. direct.py and backlog.py are the two ways; this is the fork. Must not know what an
output is made of, or why something is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

from edgehost.delivery import faults
from edgehost.delivery.backlog import Backlog, dead_letter
from edgehost.delivery.direct import Direct, Safe, Sent, settle
from edgehost.delivery.drops import Fill
from edgehost.delivery.item import Data, Item, encode, places
from edgehost.delivery.journal import Journal
from edgehost.delivery.numbers import Numbers
from edgehost.delivery.rows import Change, DeadRow, StoredRow, first_place
from edgehost.delivery.tally import Tally
from edgehost.errors import AwayError
from edgehost.event import Event, Response
from edgehost.manifest.model import Store
from edgehost.parcel import Parcel
from edgehost.plugin import Forwarding

__all__ = ["Item", "Lane", "LaneState"]

S = TypeVar("S", bound=Safe)
LaneState = Literal["direct", "waiting", "leaving", "memory"]
Keep = Callable[["Lane", Parcel], "asyncio.Future[None]"]

_TELL_S = 10.0


class Lane:
    """One for each output of each function; it outlives the versions of the function."""

    def __init__(
        self,
        function: str,
        name: str,
        journal: Journal,
        numbers: Numbers,
        drain_per_s: float,
        keep: Keep,
        room: Callable[[], None],
        yields: Callable[[Lane, str], bool],
    ) -> None:
        """`keep(lane, parcel)` puts one on disk if there is room for it; `room()` is called when something has left the disk.

        `yields(lane, receiver)`: whether a lane of higher priority drains to that receiver.
        """
        self.function = function
        self.name = name
        self.rules = Store()
        self.counts: Counter[str] = Counter()
        """`stored`, `left`, `dropped`, `expired`, `refused` since the start."""
        self.queue = 0
        self.tally = Tally(room)
        self._tos = self.tally.tos
        self._journal = journal
        self._numbers = numbers
        self._drain_per_s = drain_per_s
        self._keep = keep
        self._yields = partial(yields, self)
        self._log = logging.getLogger("edgehost.outbox")
        self._loop = asyncio.get_running_loop()
        self._outputs: list[tuple[Forwarding, Store]] = []
        """Those of the versions that are there: the last one is in use, and if it fails to come up, the one before it again."""
        self._output: Forwarding | None = None
        self._direct = Direct(self._ended, self._came_back, self._spill)
        self._backlog: Backlog | None = None
        self._closed = False
        self._told_at = -_TELL_S

    @property
    def opened(self) -> bool:
        """False: there is no journal, and everything goes direct."""
        return self._backlog is not None

    @property
    def attached(self) -> bool:
        """False: its function has no such output any more."""
        return bool(self._outputs)

    @property
    def count(self) -> int:
        """Messages stored, or about to be."""
        return self.tally.count

    @property
    def bytes(self) -> int:
        """Of the same."""
        return self.tally.bytes

    @property
    def fill(self) -> Fill:
        return Fill(self.queue, self.rules.priority, self.bytes)

    @property
    def state(self) -> LaneState:
        """How it is, in a word."""
        if self._backlog is None:
            return "memory"
        if not self.count:
            return "direct"
        leaves = self._output is not None and self._output.reachable and not self._backlog.resting()
        return "leaving" if leaves else "waiting"

    def drains(self, receiver: str) -> bool:
        """Whether messages that were held up go there now."""
        return self._backlog is not None and self._backlog.drains(receiver)

    async def open(self) -> None:
        """Find what an earlier run has left. Raises StateError if the journal cannot be used; then all goes direct."""
        if self._backlog is not None:
            return
        await self._journal.open()
        await self._numbers.load()
        queue = await self._journal.queue("parcel", self.function, self.name)
        first, end = first_place(queue), first_place(queue + 1)
        found = await self._journal.ask(lambda connection: places(connection, first, end))
        if self._backlog is not None:
            return  # by somebody else, meanwhile
        self.queue = queue
        for to, count, size_bytes in found:
            self.tally.add(to, size_bytes, count)
        where = f"{self.function}: [outputs.{self.name}]"
        self._backlog = Backlog(
            where, queue, self._journal, self._numbers, self.tally, self.counts, self._drain_per_s, self._letter, self._yields
        )
        self._backlog.use(self._output)

    def attach(self, output: Forwarding, rules: Store) -> None:
        """From now on this is the way out."""
        self._spill()  # what the one before it has under way comes first
        self._outputs.append((output, rules))
        self._use()
        output.on_reachable(partial(self._reached, output))

    def detach(self, output: Forwarding) -> None:
        """`output` ends: what it has not got rid of is stored, and goes to its successor if that is somebody else's."""
        if output is self._output:
            self._spill()
        self._outputs = [each for each in self._outputs if each[0] is not output]
        self._use()

    def _use(self) -> None:
        before, self._output = self._output, None
        if self._outputs:
            self._output, self.rules = self._outputs[-1]
        if self._backlog is None:
            return
        if before is not None and self._output is not None and self._output.receiver != before.receiver:
            # If that receiver is away, nobody knows whether it is ever seen again.
            self._backlog.recall(before, begun=not before.reachable)
        self._backlog.use(self._output)

    def close(self) -> None:
        """The agent ends: what is under way is stored, and nothing more leaves from the disk."""
        self._closed = True
        self._spill()
        self._direct.close()
        if self._backlog is not None:
            self._backlog.close()

    def send(self, event: Event, response: Response) -> Awaitable[None] | None:
        """As Output.send: None, or an awaitable that ends when the answer is safe, with its receiver or on disk.

        Raises TriggerError for one that can never leave.
        """
        return self.send_for(self._loop.create_future, event, response)

    def send_for(self, caller: Callable[[], S], event: Event, response: Response) -> S | Awaitable[None] | None:
        """As `send`, but what `caller` makes where the answer is under way: it is told then, and no future is made for it."""
        output, backlog = self._output, self._backlog
        if output is None:
            raise AwayError(f"[outputs.{self.name}] has ended")
        if backlog is None:
            return output.send(event, response)
        if not output.reachable or (backlog.away_until and backlog.resting()):
            return self._store(output.pack(event, response))
        if self._tos or output.numbered:
            return self._send_packed(output, caller, event, response, output.pack(event, response))
        try:
            wait = output.send(event, response)
        except AwayError:
            return self._store(output.pack(event, response))
        if wait is None:
            return None
        safe = caller()
        self._direct.watch(wait, safe, output, event, response)
        return safe

    def _send_packed(
        self, output: Forwarding, caller: Callable[[], S], event: Event, response: Response, parcel: Parcel
    ) -> S | Awaitable[None] | None:
        """As `send`, where others wait to go somewhere, or where each needs a number."""
        if parcel.to in self._tos:
            return self._store(parcel)
        item = None
        try:
            if output.numbered:
                item = Item(parcel)
                wait: Awaitable[None] | None = self._post(output, item)
            else:
                wait = output.send(event, response)
        except AwayError:
            return self._store(parcel)
        if wait is None:
            return None
        safe = caller()
        self._direct.watch(wait, safe, output, event, response, item)
        return safe

    def _post(self, output: Forwarding, item: Item) -> Awaitable[None]:
        """Send one direct that has a number: if it is stored after all, its row has it too."""
        item.number = self._numbers.take()
        try:
            return output.post(item.parcel, False, item if item.number else None)
        except Exception:
            self._numbers.free(item.number)
            raise

    def prepare(self, parcel: Parcel, data: Data | None = None, numbered: bool = False) -> tuple[Item, StoredRow]:
        """A row for a transaction of somebody else's, which has to be handed over in this turn of the loop; `stored` or
        `never_stored` says what became of it. `numbered`: all of the row is written, its number too."""
        assert self._backlog is not None
        self._spill()  # what was sent before comes before
        item = Item(parcel)
        if numbered and self._output is not None and self._output.numbered and self._backlog.enters_next():
            item.number = self._numbers.take()
        row = self._row(item, encode(parcel) if data is None else data)
        self._backlog.unwritten += 1
        return item, row

    def stored(self, item: Item) -> None:
        """It is on disk: it leaves in its turn."""
        assert self._backlog is not None
        self._backlog.stored(item)

    def never_stored(self, item: Item) -> None:
        """It did not get into the journal."""
        assert self._backlog is not None
        self._backlog.unwritten -= 1
        self._backlog.forget(item)

    async def evict(self, size_bytes: int, why: str) -> int:
        """Drop the oldest messages, at least so many bytes of them if there are; gives how many bytes went."""
        if self._backlog is None:
            return 0
        gone = await self._backlog.evict(size_bytes)
        self.dropped(len(gone), why)
        return sum(row.size_bytes for row in gone)

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

    def _row(self, item: Item, data: Data) -> StoredRow:
        """It takes the next place."""
        item.place = self._journal.take_places("parcel", self.queue)
        item.at = self._journal.now()
        item.until = item.at + self.rules.ttl_s if self.rules.ttl_s is not None else None
        item.size_bytes = len(data)
        self.tally.add(item.parcel.to, item.size_bytes)
        return StoredRow(item.place, item.parcel.to, data, item.at, item.until, item.number, item.released)

    def _store(self, parcel: Parcel) -> asyncio.Future[None]:
        self._spill()
        return self._keep(self, parcel)

    def _reached(self, output: Forwarding) -> None:
        """The receiver came or went."""
        if output is not self._output or self._closed or self._backlog is None:
            return
        if output.reachable:
            self._backlog.reached()
        else:
            self._spill()
            # What has not been sent may expire, be late or make room: on disk, and not in the output's memory.
            self._backlog.recall(output, begun=False)
            self._backlog.pump()

    def _spill(self) -> None:
        """Store what is under way and cannot be taken back: its receiver may get it all the same, and then it goes."""
        backlog = self._backlog
        if backlog is None or not self._direct:
            return
        for wait, sent in self._direct.take_over():
            if wait.done() and not wait.cancelled() and wait.exception() is None:
                self._ended(sent, None)
                continue
            self._adopt(sent, wait)

    def _adopt(self, sent: Sent, wait: asyncio.Future[None] | None) -> None:
        assert self._backlog is not None
        item = sent.item or Item(sent.parcel())
        row = self._row(item, encode(item.parcel))
        self._backlog.adopt(item, wait, sent.output)
        self._journal.commit(Change(stored=(row,)), partial(self._spilled, sent.safe, item))

    def _spilled(self, safe: Safe, item: Item, _result: Any, error: BaseException | None) -> None:
        assert self._backlog is not None
        if error is None:
            faults.at("outbox.stored")
            self.counts["stored"] += 1
        else:
            self._backlog.disown(item)
        settle(safe, error)

    def _ended(self, sent: Sent, error: BaseException | None) -> None:
        """What was sent direct has arrived, or never will."""
        if sent.item is not None:
            self._numbers.free(sent.item.number)
        settle(sent.safe, error)

    def _came_back(self, sent: Sent, error: AwayError) -> None:
        """The receiver did not take what was sent direct: it waits on disk, before all that is still under way."""
        assert self._backlog is not None
        if sent.output is self._output and sent.output.reachable:
            self._backlog.rest(error)
        self._adopt(sent, None)
        self._spill()
        self._backlog.pump()

    def _letter(self, item: Item, error: BaseException) -> DeadRow:
        return dead_letter(self.function, self.name, item, error, self._journal.now())
