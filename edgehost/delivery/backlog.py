"""Backlog: the way of one lane over the disk.

    waiting      in its turn, in memory or on disk alone
    claiming     in memory, and its number is being written down (a numbered output alone)
    leaving      given to the output, `window` at a time; what was sent direct and stored later, too
    away         the receiver could not take it: it waits again, in its place; all rest for a back-off
    refused      the receiver will never take it: a dead letter
    expired      waited longer than `store.ttl`: dropped and counted

What is late leaves at the lane's pace, so that an outage is not followed by a flood, and after what is late of outputs of higher
priority to the same receiver. Must not know what goes direct, or whether
there is room for one more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from edgehost.backoff import Backoff
from edgehost.delivery import faults
from edgehost.delivery.drops import Pace
from edgehost.delivery.item import PAGE, PAGE_BYTES, Item, Kept, Page, encode, evict, page
from edgehost.delivery.journal import Journal
from edgehost.delivery.ledger import Ledger
from edgehost.delivery.numbers import Numbers
from edgehost.delivery.rows import DeadRow, first_place
from edgehost.delivery.tally import Tally
from edgehost.delivery.waiting import Waiting
from edgehost.errors import AwayError, EdgehostError
from edgehost.plugin import Forwarding

LATE_S = 1.0
_READY = 512
_EXPIRE_S = 1.0
_AGAIN_S = 5.0
_YIELD_S = 0.1

Letter = Callable[[Item, BaseException], DeadRow]


class Backlog:
    """One lane's, from the moment its journal is open. `letter` makes a dead letter."""

    def __init__(
        self,
        where: str,
        queue: int,
        journal: Journal,
        numbers: Numbers,
        tally: Tally,
        counts: Counter[str],
        drain_per_s: float,
        letter: Letter,
        yields: Callable[[str], bool],
    ) -> None:
        """`yields(receiver)`: whether a backlog that matters more goes there now."""
        self.ledger = Ledger(journal)
        self.output: Forwarding | None = None
        self.unwritten = 0
        """Messages that have a place and are not on disk yet."""
        self._where = where
        self._queue = queue
        self._journal = journal
        self._numbers = numbers
        self._tally = tally
        self._counts = counts
        self._letter = letter
        self._yields = yields
        self._loop = asyncio.get_running_loop()
        self._log = logging.getLogger("edgehost.outbox")
        self._waiting = Waiting()
        self._leaving: dict[int, Item] = {}
        self._under_way: Counter[str] = Counter()
        """How many are leaving, by receiver."""
        self._first, self._end = first_place(queue), first_place(queue + 1)
        self._loaded = self._first - 1
        """Every row up to this place is in memory, or done with."""
        self._ahead: set[int] = set()
        """Places behind it of which the same is true."""
        self._loading = False
        self._held = 0
        """Above 0 nothing leaves: rows are being deleted, or are coming back."""
        self._backoff = Backoff(0.5, 60.0)
        self.away_until = 0.0
        """The receiver rests until then (monotonic seconds); 0 if it has said nothing of the kind lately."""
        self._pace = Pace(drain_per_s, time.monotonic())
        self._pump_at: asyncio.TimerHandle | None = None
        self._closed = False

    # What comes.

    def use(self, output: Forwarding | None) -> None:
        """From now on this is the way out."""
        self.output = output
        if output is not None and output.numbered:
            for item in [each for each in self._waiting if not each.number]:
                self._claim(item)
        self.pump()

    def stored(self, item: Item) -> None:
        """It is on disk: it leaves in its turn."""
        faults.at("outbox.stored")
        self.unwritten -= 1
        self._counts["stored"] += 1
        item.ledger = self.ledger
        self._pace.arrived(time.monotonic())
        if self._follows(item) and len(self._waiting) < _READY and self._waiting.bytes < PAGE_BYTES:
            self._reach(item.place)
            self._enter(item)
        self.pump()

    def enters_next(self) -> bool:
        """Whether a row that is written now will wait in memory at once: then its number can be written with it."""
        return self._on_disk_alone() <= 0 and len(self._waiting) + self.unwritten < _READY

    def adopt(self, item: Item, wait: asyncio.Future[None] | None, output: Forwarding) -> None:
        """It was sent direct, and is being stored now. It may arrive all the same and then goes; without `wait` it did not."""
        item.ledger = self.ledger
        item.begun = item.number != 0
        self._ahead.add(item.place)
        self._reach(self._loaded)
        if wait is None:
            self._enter(item)
        else:
            self._leave(item, wait, output)

    def disown(self, item: Item) -> None:
        """What was adopted did not get on disk: it arrives, or it does not."""
        if self._leaving.get(item.place) is item:
            self._under_way[_receiver(item)] -= 1
            del self._leaving[item.place]
            self.forget(item)
        elif self._waiting.take_out({item.place}):
            self.forget(item)

    def forget(self, item: Item) -> None:
        """It is nowhere any more."""
        self._numbers.free(item.number)
        self._tally.remove(item.parcel.to, item.size_bytes)

    # How it leaves.

    def drains(self, receiver: str) -> bool:
        """Whether messages that were held up go there now."""
        output, item = self.output, self._waiting.first
        if output is None or item is None or output.receiver != receiver:
            return False
        return output.reachable and not self.resting() and self._journal.now() - item.at > LATE_S

    def resting(self) -> bool:
        """Whether the receiver has just said that it takes nothing."""
        return self.away_until > time.monotonic()

    def rest(self, error: AwayError) -> None:
        """The receiver takes nothing now."""
        if self._closed or self.resting():
            return
        delay_s = self._backoff.next()
        self.away_until = time.monotonic() + delay_s
        if self._backoff.failures == 1:
            self._log.warning("%s waits on disk: %s", self._where, error)
        self.pump()

    def reached(self) -> None:
        """The receiver is there again."""
        self.away_until = 0.0
        self._backoff.reset()
        self.pump()

    def recall(self, output: Forwarding, begun: bool) -> None:
        """Have `output` give back what it still holds, as far as it can: it waits again. The caller pumps, when all is set."""
        items = {item.wait: item for item in self._leaving.values() if item.output is output and item.wait is not None}
        if not items:
            return
        output.recall(items.keys(), begun)
        self._held += 1
        for wait, item in items.items():
            if wait.done():
                self._posted(item, wait)
        self._held -= 1

    def pump(self) -> None:
        """Do what can be done now: drop what has expired, send what may leave, fetch what comes next."""
        if self._closed or self._held:
            return
        if self._waiting.expires_at < (now := self._journal.now()):
            for item in self._waiting.take_expired(now):
                self._counts["expired"] += 1
                self._gone(item)
        if self.output is not None:
            self._send(self.output)
        if not self._loading and len(self._waiting) < PAGE // 2 and self._on_disk_alone() > 0:
            self._load()
        if self._waiting.expires_at < float("inf"):
            self._pump_in(max(_EXPIRE_S, self._waiting.expires_at - now))

    def close(self) -> None:
        """The agent ends: nothing more leaves from the disk. What is under way may still arrive."""
        self._closed = True
        if self._pump_at is not None:
            self._pump_at.cancel()
        self.ledger.close()

    def _pump_in(self, delay_s: float) -> None:
        if self._closed:
            return
        if self._pump_at is not None:
            if self._pump_at.when() <= self._loop.time() + delay_s:
                return
            self._pump_at.cancel()
        self._pump_at = self._loop.call_later(delay_s, self._pump_now)

    def _pump_now(self) -> None:
        self._pump_at = None
        self.pump()

    def _enter(self, item: Item) -> None:
        """It waits in memory."""
        self._waiting.push(item)
        if self.output is not None and self.output.numbered and not item.number:
            self._claim(item)

    def _claim(self, item: Item) -> None:
        """Give it a number, on disk before it is sent. All that enter in one turn are written together."""
        item.number = self._numbers.take()
        if item.number:
            item.ready = False
            self.ledger.claim(item.place, item.number, partial(self._claimed, item))

    def _claimed(self, item: Item) -> None:
        item.ready = True
        if self._waiting.first is item:
            self.pump()

    def _send(self, output: Forwarding) -> None:
        waiting, receiver = self._waiting, output.receiver
        while (item := waiting.first) is not None:
            if not item.ready or self._under_way[receiver] >= output.window or not output.reachable:
                return
            if self.resting():
                self._pump_in(self.away_until - time.monotonic() + 0.001)
                return
            late = self._journal.now() - item.at > LATE_S
            if late and not item.released:
                delay_s = _YIELD_S if self._yields(receiver) else self._pace.take(time.monotonic())
                if delay_s:
                    self._pump_in(delay_s)
                    return
            self._post(output, waiting.take_first(), late)

    def _post(self, output: Forwarding, item: Item, late: bool) -> None:
        faults.at("outbox.claimed")
        wait: asyncio.Future[None]
        try:
            wait = asyncio.ensure_future(output.post(item.parcel, late, item if item.number else None))
        except Exception as error:  # a plugin's: whatever it raises is this message's trouble
            wait = self._loop.create_future()
            wait.set_exception(error)
        item.begun = item.number != 0
        faults.at("outbox.sent")
        self._leave(item, wait, output)

    def _leave(self, item: Item, wait: asyncio.Future[None], output: Forwarding) -> None:
        item.wait, item.output = wait, output
        self._leaving[item.place] = item
        self._under_way[output.receiver] += 1
        wait.add_done_callback(partial(self._posted, item))

    def _posted(self, item: Item, done: asyncio.Future[None]) -> None:
        """Its receiver has it, or has said no."""
        error = done.exception() if not done.cancelled() else AwayError("it was given up")
        if self._leaving.get(item.place) is not item or item.wait is not done:
            return  # disowned
        del self._leaving[item.place]
        self._under_way[_receiver(item)] -= 1
        if error is None:
            faults.at("outbox.taken")
            self._counts["left"] += 1
            self._backoff.reset()
            self._gone(item)
        elif isinstance(error, AwayError):
            self._enter(item)
            if self.output is item.output and self.output is not None and self.output.reachable:
                self.rest(error)
        else:
            self._counts["refused"] += 1
            self._log.error("%s: a message is refused for good, see `edgehost dead-letters`: %s", self._where, error)
            self._gone(item, self._letter(item, error))
        self.pump()

    def _gone(self, item: Item, dead: DeadRow | None = None) -> None:
        self.ledger.left(item.place, dead)
        self.forget(item)

    # What is on disk alone.

    def _on_disk_alone(self) -> int:
        return self._tally.count - self.unwritten - len(self._waiting) - len(self._leaving)

    def _follows(self, item: Item) -> bool:
        return self._loaded == item.place - 1 and not self._loading

    def _reach(self, place: int) -> None:
        """Every row up to `place` is in memory, or done with."""
        self._loaded = max(self._loaded, place)
        if self._ahead:
            while self._loaded + 1 in self._ahead:
                self._loaded += 1
            self._ahead = {each for each in self._ahead if each > self._loaded}

    def _load(self) -> None:
        """Fetch the next page from disk."""
        self._loading = True
        # Every place taken by now is handed over before the question, so what the answer lacks is done with.
        known = self._journal.next_place("parcel", self._queue) - 1
        after, end = self._loaded, self._end
        asked = self._journal.ask(lambda connection: page(connection, after, end))
        asked.add_done_callback(partial(self._page_came, known))

    def _page_came(self, known: int, done: asyncio.Future[Page]) -> None:
        self._loading = False
        error = done.exception() if not done.cancelled() else None
        if self._closed or done.cancelled():
            return
        if error is not None:
            self._log.error("%s cannot be read from the journal: %s", self._where, error)
            if isinstance(error, EdgehostError):
                self._pump_in(_AGAIN_S)
            return
        found = done.result()
        for item in found.items:
            if item.place > self._loaded and item.place not in self._ahead:
                item.ledger = self.ledger
                self._enter(item)
        for row in found.unreadable:
            self._unreadable(row)
        last = max((*(item.place for item in found.items[-1:]), *(row.place for row in found.unreadable[-1:])), default=0)
        self._reach(max(last, 0 if found.more else known))
        if last:
            self.pump()

    def _unreadable(self, row: Kept) -> None:
        """Not written by any edgehost: it would block all behind it."""
        self._counts["dropped"] += 1
        self._log.error("%s: a message on disk cannot be read and is dropped", self._where)
        self.ledger.left(row.place)
        self._forget_row(row)

    def _forget_row(self, row: Kept) -> None:
        self._numbers.free(row.number)
        self._tally.remove(row.to, row.size_bytes)

    async def evict(self, size_bytes: int) -> list[Kept]:
        """Delete the oldest messages that are not leaving, at least so many bytes of them if there are."""
        self._held += 1
        self.ledger.write()  # what has left is not to be found any more
        keep, first, end = frozenset(self._leaving), self._first, self._end
        try:
            gone = await self._journal.ask(lambda connection: evict(connection, first, end, keep, size_bytes))
        finally:
            self._held -= 1
        numbers = {item.place: item.number for item in self._waiting}
        self._waiting.take_out({row.place for row in gone})
        for row in gone:
            # The row may have got its number after it was read.
            self._forget_row(row._replace(number=numbers.get(row.place, row.number)))
        self._reach(max((row.place for row in gone), default=0))
        self.pump()
        return gone


def _receiver(item: Item) -> str:
    assert item.output is not None
    return item.output.receiver


def dead_letter(function: str, output: str, item: Item, error: BaseException, at: float) -> DeadRow:
    """What is kept of a message that its receiver refused."""
    return DeadRow(
        function=function,
        trigger="",
        output=output,
        event_id=item.parcel.id,
        code="output_failed",
        error=str(error),
        attempts=1,
        received=item.parcel.published,
        failed=time.time(),
        at=at,
        body=encode(item.parcel),
    )
