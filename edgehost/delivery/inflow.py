"""Inflow: durable events of one trigger, from the moment they are received until the function has answered them.

    receive       into the journal; its future is done once the event is on disk: that is what the source is told
    kept          waits for its turn: in memory while few do, on disk alone beyond _READY events or _READY_BYTES
    given         in the function, `window` at a time, in the order in which they came
    settled       answered, its outputs stored, in one transaction (edgehost/delivery/ending.py)
    no room       `receive` waits, and the source with it; a caller who cannot wait is refused

After a restart it goes on with what the disk holds. Must not know what a trigger is, or what becomes of an answer.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from edgehost.backoff import Backoff
from edgehost.delivery import faults
from edgehost.delivery.ending import Entry
from edgehost.delivery.journal import Journal
from edgehost.delivery.rows import Change, ReceivedRow, first_place
from edgehost.errors import EdgehostError
from edgehost.event import Event, Response, failure

Deliver = Callable[[Event, Entry], "asyncio.Future[Response]"]

ACCEPTED = Response(202, "text/plain", {}, b"")
"""What a durable event is answered once it is on disk."""
_READY = 1024
_READY_BYTES = 4 * 1024 * 1024
_PAGE = 256
_PAGE_BYTES = 1024 * 1024

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Event).decode


class Allowance:
    """How much may wait on disk: one for the whole agent. `refusal` is why nothing more is taken whatever the sizes say."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.events = 0
        self.refusal = ""
        self.on_room: list[Callable[[], None]] = []

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

    def take(self, size_bytes: int) -> None:
        self.used_bytes += size_bytes
        self.events += 1

    def give_back(self, size_bytes: int) -> None:
        """An event has gone from the disk."""
        was_full = self.used_bytes >= self.limit_bytes
        self.used_bytes -= size_bytes
        self.events -= 1
        if was_full and self.used_bytes < self.limit_bytes:
            self.room()

    def room(self) -> None:
        """There may be room again."""
        for tell in tuple(self.on_room):
            tell()


class _Kept:
    """One event that is on disk and waits in memory too."""

    __slots__ = ("attempts", "event", "key", "place", "size_bytes")

    def __init__(self, place: int, event: Event, key: str | None, attempts: int, size_bytes: int) -> None:
        self.place, self.event, self.key, self.attempts, self.size_bytes = place, event, key, attempts, size_bytes


class Inflow:
    """One trigger's. `deliver` gives an event to the function; assign it anew at an upgrade."""

    def __init__(
        self,
        queue: int,
        journal: Journal,
        allowance: Allowance,
        deliver: Deliver,
        window: int,
        patient: bool,
        keep_s: float,
        tell: Callable[[str], None],
        log: logging.LoggerAdapter[logging.Logger],
    ) -> None:
        """`tell(reason)` is called when events are held back, and with '' when they no longer are."""
        self.deliver = deliver
        self._journal = journal
        self._allowance = allowance
        self._window = window
        self._patient = patient
        self._keep_s = keep_s
        self._tell = tell
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._end = first_place(queue + 1)
        self._queue = queue
        self._ready: deque[_Kept] = deque()
        self._ready_bytes = 0
        self._held: deque[tuple[Event, str | None, asyncio.Future[Response]]] = deque()
        self._loaded = first_place(queue) - 1
        """Every row up to this place is in memory, or done with."""
        self._newest = journal.next_place("event", queue) - 1
        """The newest place that is on disk."""
        self._loading = False
        self._given = 0
        self._resting = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._told = ""
        self._backoff = Backoff(0.5, 30.0)

    @property
    def in_flight(self) -> int:
        """Events that the function has and has not answered."""
        return self._given

    def start(self) -> None:
        """Go on with what the disk holds."""
        self._allowance.on_room.append(self._let_in)
        self._load()

    def look(self) -> None:
        """Rows may have been added behind its back (a replay): they are behind all that it knows."""
        self._newest = self._journal.next_place("event", self._queue) - 1
        self._load()

    def receive(self, event: Event, key: str | None = None) -> asyncio.Future[Response]:
        """As TriggerHost.submit; the answer is ACCEPTED, or a failure that says why the event was not taken."""
        future: asyncio.Future[Response] = self._loop.create_future()
        if self._held or self._allowance.used_bytes >= self._allowance.limit_bytes or self._allowance.refusal:
            self._hold(event, key, future)
        else:
            self._keep(event, key, future)
        return future

    def rest(self) -> None:
        """Give nothing more to the function. What comes still goes to disk, if there is room, and stays there."""
        self._resting = True
        if self._let_in in self._allowance.on_room:
            self._allowance.on_room.remove(self._let_in)
        while self._held:
            _, _, future = self._held.popleft()
            if not future.done():
                future.set_result(failure("stopped", "the function is stopping"))
        self._ready.clear()
        self._ready_bytes = 0
        self._set_idle()

    async def drained(self) -> None:
        """After `rest`: return once the function has answered what it has."""
        await self._idle.wait()

    def _keep(self, event: Event, key: str | None, future: asyncio.Future[Response]) -> None:
        try:
            data = _encode(event)
        except (UnicodeError, ValueError, OverflowError) as error:  # a lone surrogate, a number of more than 64 bits
            future.set_result(failure("raised", f"the event cannot be written down: {error}"))
            return
        place = self._journal.take_places("event", self._queue)
        self._allowance.take(len(data))
        row = ReceivedRow(place, data, key, self._journal.now())
        self._journal.commit(Change((row,)), partial(self._kept, _Kept(place, event, key, 0, len(data)), future))

    def _kept(self, kept: _Kept, future: asyncio.Future[Response], _result: None, error: BaseException | None) -> None:
        if error is not None:
            self._allowance.give_back(kept.size_bytes)
            if not future.done():
                future.set_result(failure("no_room", str(error)))
            return
        faults.at("inflow.kept")
        self._newest = kept.place
        room = len(self._ready) < _READY and self._ready_bytes < _READY_BYTES
        if self._loaded == kept.place - 1 and room and not self._loading and not self._resting:
            self._loaded = kept.place
            self._ready.append(kept)
            self._ready_bytes += kept.size_bytes
            if self._given < self._window:
                self._feed()
        elif not self._ready:
            self._load()
        if not future.done():
            future.set_result(ACCEPTED)

    def _hold(self, event: Event, key: str | None, future: asyncio.Future[Response]) -> None:
        """No room on disk: whoever can wait waits."""
        reason = self._allowance.reason()
        if self._resting or not self._patient:
            future.set_result(failure("stopped" if self._resting else "no_room", reason or "events wait for room on disk"))
            return
        self._held.append((event, key, future))
        if reason and reason != self._told:
            self._told = reason
            self._tell(reason)

    def _let_in(self) -> None:
        while self._held and not self._allowance.reason():
            event, key, future = self._held.popleft()
            self._keep(event, key, future)
        if not self._held and self._told:
            self._told = ""
            self._tell("")

    def _feed(self) -> None:
        """Give the function what it has room for, and fetch more before it runs dry."""
        ready = self._ready
        while ready and self._given < self._window:
            kept = ready.popleft()
            self._ready_bytes -= kept.size_bytes
            self._given += 1
            entry = Entry(kept.place, kept.key, self._keep_s, kept.attempts)
            faults.at("inflow.given")
            self.deliver(kept.event, entry).add_done_callback(partial(self._answered, kept))
        if self._loaded < self._newest and len(ready) < _PAGE // 2:
            self._load()

    def _answered(self, kept: _Kept, done: asyncio.Future[Response]) -> None:
        self._given -= 1
        if done.result().code in _NOT_SETTLED:
            if not self._resting:
                self._give_again(kept)
        else:
            self._allowance.give_back(kept.size_bytes)
            self._backoff.reset()
        if not self._resting:
            self._feed()
        self._set_idle()

    def _give_again(self, kept: _Kept) -> None:
        """The function was not there, or its version ended: the event is as it was, and has its turn again first."""
        self._ready_bytes += kept.size_bytes
        index = next((index for index, other in enumerate(self._ready) if other.place > kept.place), len(self._ready))
        self._ready.insert(index, kept)
        if self._given == 0:
            self._window, window = 0, self._window
            self._loop.call_later(self._backoff.next(), self._resume, window)

    def _resume(self, window: int) -> None:
        self._window = window
        if not self._resting:
            self._feed()

    def _set_idle(self) -> None:
        if self._given:
            self._idle.clear()
        else:
            self._idle.set()

    def _load(self) -> None:
        if self._loading or self._resting:
            return
        self._loading = True
        after, end = self._loaded, self._end
        # Every place taken by now is handed over before the question, so what the answer lacks is done with.
        known = self._journal.next_place("event", self._queue) - 1
        asked = self._journal.ask(lambda connection: _page(connection, after, end))
        asked.add_done_callback(partial(self._page_came, known))

    def _page_came(self, known: int, done: asyncio.Future[tuple[list[_Kept], bool]]) -> None:
        self._loading = False
        if done.cancelled() or self._resting:
            return
        if (error := done.exception()) is not None:
            self._log.error("durable events cannot be read: %s", error)
            if isinstance(error, EdgehostError):
                self._loop.call_later(self._backoff.next(), self._load)
            return
        rows, more = done.result()
        for kept in rows:
            self._ready.append(kept)
            self._ready_bytes += kept.size_bytes
            self._loaded = kept.place
        if not more:
            self._loaded = max(self._loaded, known)
        self._feed()


_NOT_SETTLED = frozenset({"stopped", "not_ready", "cancelled", "no_worker", "queue_full", "dropped"})
"""Answers that say the function has not seen the event: it stays."""


def _page(connection: sqlite3.Connection, after: int, end: int) -> tuple[list[_Kept], bool]:
    rows: list[_Kept] = []
    size_bytes = 0
    select = "SELECT place, event, key, attempts FROM events WHERE place > ? AND place < ? ORDER BY place"
    for place, data, key, attempts in connection.execute(select, (after, end)):
        rows.append(_Kept(place, _decode(data), key, attempts, len(data)))
        size_bytes += len(data)
        if len(rows) >= _PAGE or size_bytes >= _PAGE_BYTES:
            return rows, True
    return rows, False
