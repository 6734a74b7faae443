"""Dead letters: what failed for good is kept to be looked at, run again or dropped. This is their side in the loop.

    written      with the end of an event, or of a message that was refused (edgehost/delivery/ending.py, lane.py)
    too many     [journal] dead_letters are kept: the oldest go, a twentieth of them at a time
    replayed     moved back to where it came from, in one transaction; its event keeps its id and has all its attempts again
    dropped      gone

The questions themselves are letters.py. Must not know how a function is reached: Receivers does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from edgehost.delivery import faults, letters
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.journal import Journal
from edgehost.delivery.lane import Item, Lane
from edgehost.delivery.letters import Chosen, Group, KeyOf
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.rows import StoredRow
from edgehost.errors import ControlError, StateError
from edgehost.letter import Letters, Which, WholeLetter
from edgehost.parcel import Parcel

T = TypeVar("T")
Lanes = dict[tuple[str, str], Lane]
Prepared = tuple[int, Lane, Item, StoredRow]
"""A message's letter, its way out, and its place there."""

_TELL_S = 600.0
log = logging.getLogger("edgehost.journal")


class Receivers(Protocol):
    """What a replay needs of the functions."""

    def refusal(self, function: str, output: str) -> str:
        """Why nothing can go back to `function`, or to its output; "" if it can."""

    def key_of(self, function: str, trigger: str) -> KeyOf | None:
        """What the trigger's `dedupe` knows an event by; None if it has none."""

    async def recover(self, function: str, trigger: str) -> None:
        """Events of this trigger have been put on disk: have them run."""


class DeadLetters:
    """One for the agent. Its methods raise StateError if the journal cannot be used now."""

    def __init__(self, journal: Journal, outbox: Outbox, allowance: Allowance, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self.dropped = 0
        """So many have gone since the start because there were too many."""
        self._journal = journal
        self._outbox = outbox
        self._allowance = allowance
        self._trimming = False
        self._told_at = -_TELL_S
        self._told_dropped = 0
        self._working: set[asyncio.Task[Any]] = set()
        journal.on_open.append(self._opened)
        journal.on_letters.append(self._written)

    async def find(self, which: Which, limit: int) -> Letters:
        """The newest `limit` of those meant."""
        if not self._usable():
            return Letters([], 0)
        now = self._journal.now()
        return await self._journal.ask(lambda connection: letters.find(connection, which, limit, now))

    async def whole(self, number: int) -> WholeLetter:
        """One with what it holds. Raises ControlError if there is none of this number."""
        if not self._usable():
            raise ControlError(f"there is no dead letter {number}: there are none at all")
        now = self._journal.now()
        return await self._journal.ask(lambda connection: letters.whole(connection, number, now))

    async def drop(self, which: Which) -> int:
        """Remove those meant; gives how many."""
        _check_meant(which, "dropped")
        if not self._usable():
            return 0
        now = self._journal.now()
        gone = await self._journal.ask(lambda connection: letters.drop(connection, which, now))
        self.count -= gone
        return gone

    async def replay(self, which: Which, receivers: Receivers) -> int:
        """Put those meant back where they came from; gives how many. One that fails again is a new letter.

        Raises ControlError, and moves none, if one of them has nowhere to go. What has begun goes on, whatever becomes of who
        asked for it.
        """
        _check_meant(which, "replayed")
        if not self._usable():
            return 0
        return await self._undisturbed(self._replay(which, receivers))

    async def _undisturbed(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return await asyncio.shield(task)

    async def _replay(self, which: Which, receivers: Receivers) -> int:
        now = self._journal.now()
        groups = await self._journal.ask(lambda connection: letters.groups(connection, which, now))
        _check_receivers(groups, receivers)
        queues = {
            (group.function, group.trigger): await self._journal.queue("event", group.function, group.trigger)
            for group in groups
            if not group.output
        }
        keys = {name: key_of for name in queues if (key_of := receivers.key_of(*name)) is not None}
        lanes = {(each.function, each.output): self._outbox.lane(each.function, each.output) for each in groups if each.output}
        count, after, newest = 0, 0, max((group.newest for group in groups), default=0)
        while True:
            page = await self._next_page(which, now, after, newest, keys)
            if not page:
                return count
            try:
                self._check_room(page)
            except ControlError as error:
                raise ControlError(f"{count} of them are replayed, the others stay: {error}") if count else error from None
            count += await self._move(page, queues, lanes, receivers)
            after = page[-1].number

    async def _next_page(
        self, which: Which, now: float, after: int, newest: int, keys: dict[tuple[str, str], KeyOf]
    ) -> list[Chosen]:
        return await self._journal.ask(lambda connection: letters.page(connection, which, now, after, newest, keys))

    def _check_room(self, page: list[Chosen]) -> None:
        """A replay waits for nothing: whoever asked can ask again."""
        if any(not each.output for each in page) and (reason := self._allowance.reason()):
            raise ControlError(f"no durable event is taken now: {reason}")
        size_bytes = sum(each.size_bytes for each in page if each.output)
        if size_bytes and self._outbox.bytes + size_bytes > self._outbox.limit_bytes:
            raise ControlError("the outbox is full; replay when its messages have left")

    async def _move(self, page: list[Chosen], queues: dict[tuple[str, str], int], lanes: Lanes, receivers: Receivers) -> int:
        """One transaction. Its places are taken and it is handed over without a pause, as the journal's readers expect."""
        now = self._journal.now()
        events = [
            (each.number, self._journal.take_places("event", queues[each.function, each.trigger]), each.key)
            for each in page
            if not each.output
        ]
        prepared = [_prepared(each, lanes[each.function, each.output], each.parcel) for each in page if each.parcel is not None]
        rows = [(number, row) for number, _, _, row in prepared]
        try:
            moved = await self._journal.ask(lambda connection: letters.move(connection, events, rows, now))
        except BaseException:
            _tell_lanes(prepared, set())
            raise
        faults.at("dead.replayed")
        self.count -= len(moved)
        _tell_lanes(prepared, moved)
        back = [each for each in page if each.number in moved and not each.output]
        for each in back:
            self._allowance.take(each.size_bytes)
        for name in dict.fromkeys((each.function, each.trigger) for each in back):
            await receivers.recover(*name)
        return len(moved)

    def _usable(self) -> bool:
        """False: there is no journal, so there are no letters. Raises StateError rather than wait for a disk to have room."""
        if self._journal.trouble:
            raise StateError(self._journal.trouble)
        return self._journal.state == "open"

    def _opened(self) -> None:
        self.count = self._journal.totals.dead
        self._written(0)

    def _written(self, count: int) -> None:
        self.count += count
        if self.count > self.limit + self.limit // 20 and not self._trimming:
            self._trimming = True
            limit = self.limit
            self._journal.ask(lambda connection: letters.trim(connection, limit)).add_done_callback(self._trimmed)

    def _trimmed(self, done: asyncio.Future[tuple[int, int]]) -> None:
        self._trimming = False
        if done.cancelled() or done.exception() is not None:
            return  # the journal has said what is wrong; the next letter tries again
        self.count, gone = done.result()
        self.dropped += gone
        now = time.monotonic()
        if self.dropped > self._told_dropped and now - self._told_at > _TELL_S:
            self._told_at, self._told_dropped = now, self.dropped
            log.warning(
                "the oldest dead letters are dropped (%d since the start): [journal] dead_letters keeps %d; "
                "look at them with `edgehost dead-letters`", self.dropped, self.limit,
            )  # fmt: skip


def _prepared(letter: Chosen, lane: Lane, parcel: Parcel) -> Prepared:
    """It has waited since it died, so it is late; its time to live begins anew."""
    item, row = lane.prepare(parcel)
    item.at = letter.at
    return letter.number, lane, item, replace(row, at=letter.at)


def _tell_lanes(prepared: list[Prepared], moved: set[int]) -> None:
    for number, lane, item, _ in prepared:
        if number in moved:
            lane.stored(item)
        else:
            lane.never_stored(item)


def _check_meant(which: Which, done: str) -> None:
    if which.open and not which.every:
        raise ControlError(f"nothing says which dead letters are to be {done}; give numbers or a filter, or --all for every one")


def _check_receivers(groups: list[Group], receivers: Receivers) -> None:
    """All or none: a person who means several functions is told about the one that is missing."""
    for group in groups:
        if reason := receivers.refusal(group.function, group.output):
            raise ControlError(
                f"{group.many} of these dead letters cannot be replayed, so none is: {reason}; "
                "name those to replay, by their numbers or with --function, and drop the others"
            )
