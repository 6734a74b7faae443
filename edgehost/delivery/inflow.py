"""Inflow: durable events of one trigger, from the moment they are received until the function has answered them.

    receive       into the journal; its future is done once the event is on disk: that is what the source is told
    kept          waits for its turn: in memory while few do, on disk alone beyond _READY events or _READY_BYTES
    given         in the function, `window` at a time, in the order in which they came
    came back     the function was not there, or had no room: waits again, before all that came later
    settled       answered, its outputs stored, in one transaction (edgehost/delivery/ending.py)
    unreadable    a damaged row: dropped, with a note, for it would stand in the way of all others
    no room       `receive` waits, and the source with it; a caller who cannot wait is refused

After a restart it goes on with what the disk holds. Must not know what a trigger is, or what becomes of an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from edgehost.backoff import Backoff
from edgehost.delivery import faults
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.ending import STAYS, Entry
from edgehost.delivery.journal import Journal
from edgehost.delivery.pending import PAGE, Page, Pending, page
from edgehost.delivery.rows import Change, ReceivedRow, first_place
from edgehost.delivery.window import Window
from edgehost.event import Event, Response, failure
from edgehost.manifest.model import Queue

Deliver = Callable[[Event, Entry], "asyncio.Future[Response]"]

ACCEPTED = Response(202, "text/plain", {}, b"")
"""What a durable event is answered once it is on disk."""
_READY = 1024
_READY_BYTES = 4 * 1024 * 1024

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class Inlet:
    """What an inflow knows of the trigger it serves."""

    queue: int
    window: int
    """How many events the function gets before it has answered the first, at most."""
    patient: bool
    """Whether it can wait for room on disk."""
    keep_s: float
    """How long an answer is kept for an event that comes again."""
    tell: Callable[[str], None]
    """Called with a reason when events are held back, and with "" when they no longer are."""
    log: logging.LoggerAdapter[logging.Logger]


class Inflow:
    """One trigger's. `deliver` gives an event to the function; assign it anew at an upgrade."""

    def __init__(self, inlet: Inlet, journal: Journal, allowance: Allowance, deliver: Deliver) -> None:
        self.deliver = deliver
        self.window = Window(inlet.window)
        self._inlet = inlet
        self._journal = journal
        self._allowance = allowance
        self._loop = asyncio.get_running_loop()
        self._queue = queue = inlet.queue
        self._end = first_place(queue + 1)
        self._ready: deque[Pending] = deque()
        self._ready_bytes = 0
        self._held: deque[tuple[Event, str | None, asyncio.Future[Response]]] = deque()
        self._loaded = first_place(queue) - 1
        """Every row up to this place is in memory, or done with."""
        self._newest = journal.next_place("event", queue) - 1
        """The newest place that is on disk."""
        self._loading = False
        self._asked_to = 0
        """No row beyond this place is in the page that is being loaded."""
        self._coming: list[Pending] = []
        """What has been kept behind that place since: it goes on from there, if the page reaches so far."""
        self._given = 0
        self._resting = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._told = ""
        self._backoff = Backoff(0.5, 30.0)
        self._pause: asyncio.TimerHandle | None = None
        """While the function takes nothing: when it is tried again."""
        self._reload: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        """Events that the function has and has not answered."""
        return self._given

    @property
    def behind(self) -> bool:
        """Whether events are on disk that the function has not answered."""
        return self._given > 0 or bool(self._ready) or self._loaded < self._newest

    def start(self) -> None:
        """Go on with what the disk holds."""
        self._allowance.on_room.append(self._let_in)
        self._allowance.on_refusal.append(self._say)
        self._say()
        self._load()

    def look(self) -> None:
        """Rows may have been added behind its back (a replay): they are behind all that it knows."""
        self._newest = self._journal.next_place("event", self._queue) - 1
        self._feed()

    def keep_to(self, queue: Queue) -> None:
        """What does not fit into the function's queue waits on disk, whatever the queue's policy is for what has no disk."""
        most = self._inlet.window if queue.policy == "block" else min(self._inlet.window, queue.size)
        if most != self.window.most:
            self.window = Window(most)

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
        for timer in (self._pause, self._reload):
            if timer is not None:
                timer.cancel()
        if self._let_in in self._allowance.on_room:
            self._allowance.on_room.remove(self._let_in)
            self._allowance.on_refusal.remove(self._say)
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
            self._inlet.log.error("event %s is dropped: it cannot be written down: %s", event.id, error)
            future.set_result(failure("raised", f"the event cannot be written down: {error}"))
            return
        place = self._journal.take_places("event", self._queue)
        self._allowance.take(len(data))
        row = ReceivedRow(place, data, key, self._journal.now())
        self._journal.commit(Change((row,)), partial(self._kept, Pending(place, event, key, 0, len(data)), future))

    def _kept(self, pending: Pending, future: asyncio.Future[Response], _result: None, error: BaseException | None) -> None:
        if error is not None:
            self._allowance.give_back(pending.size_bytes)
            if not future.done():
                future.set_result(failure("no_room", str(error)))
            return
        faults.at("inflow.kept")
        self._newest = pending.place
        room = len(self._ready) + len(self._coming) < _READY and self._ready_bytes < _READY_BYTES
        if self._loading:
            if room and pending.place == (self._coming[-1].place if self._coming else self._asked_to) + 1:
                self._coming.append(pending)
                self._ready_bytes += pending.size_bytes
        elif self._loaded == pending.place - 1 and room and not self._resting:
            self._make_ready(pending)
            if self._given < self.window.now:
                self._feed()
        elif not self._ready:
            self._load()
        if not future.done():
            future.set_result(ACCEPTED)

    def _make_ready(self, pending: Pending) -> None:
        self._loaded = pending.place
        self._ready.append(pending)
        self._ready_bytes += pending.size_bytes

    def _hold(self, event: Event, key: str | None, future: asyncio.Future[Response]) -> None:
        """No room on disk: whoever can wait waits."""
        reason = self._allowance.reason()
        if self._resting or not self._inlet.patient:
            future.set_result(failure("stopped" if self._resting else "no_room", reason or "events wait for room on disk"))
            return
        self._held.append((event, key, future))
        if reason and reason != self._told:
            self._told = reason
            self._inlet.tell(reason)

    def _say(self) -> None:
        """Nothing is taken, whether or not an event has come since."""
        if self._allowance.refusal and self._allowance.refusal != self._told:
            self._told = self._allowance.refusal
            self._inlet.tell(self._told)

    def _let_in(self) -> None:
        while self._held and not self._allowance.reason():
            event, key, future = self._held.popleft()
            if not future.done():  # else its sender has gone meanwhile, and was told nothing
                self._keep(event, key, future)
        if not self._held and self._told and not self._allowance.reason():
            self._told = ""
            self._inlet.tell("")

    def _feed(self) -> None:
        """Give the function what it has room for, and fetch more before it runs dry."""
        ready, window = self._ready, self.window
        while ready and self._given < window.now and self._pause is None:
            pending = ready.popleft()
            self._ready_bytes -= pending.size_bytes
            self._given += 1
            entry = Entry(pending.place, pending.key, self._inlet.keep_s, pending.attempts)
            faults.at("inflow.given")
            self.deliver(pending.event, entry).add_done_callback(partial(self._answered, pending))
        if self._loaded < self._newest and len(ready) < PAGE // 2:
            self._load()

    def _answered(self, pending: Pending, done: asyncio.Future[Response]) -> None:
        self._given -= 1
        if done.result().code in STAYS:
            if not self._resting:
                self._came_back(pending)
        else:
            self._allowance.give_back(pending.size_bytes)
            self._backoff.reset()
            self.window.handled()
        if not self._resting:
            self._feed()
        self._set_idle()

    def _came_back(self, pending: Pending) -> None:
        """The function has not seen the event: it is as it was, and has its turn again first."""
        self._ready_bytes += pending.size_bytes
        index = next((index for index, other in enumerate(self._ready) if other.place > pending.place), len(self._ready))
        self._ready.insert(index, pending)
        self.window.came_back(self._given)
        if self._given == 0 and self._pause is None:  # else the next answer says when there is room again
            self._pause = self._loop.call_later(self._backoff.next(), self._go_on)

    def _go_on(self) -> None:
        self._pause = None
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
        self._asked_to = self._journal.next_place("event", self._queue) - 1
        asked = self._journal.ask(lambda connection: page(connection, after, end))
        asked.add_done_callback(self._page_came)

    def _page_came(self, done: asyncio.Future[Page]) -> None:
        self._loading = False
        coming, self._coming = self._coming, []
        if done.cancelled() or self._resting:
            return
        self._ready_bytes -= sum(pending.size_bytes for pending in coming)
        if (error := done.exception()) is not None:
            self._inlet.log.error("durable events cannot be read: %s", error)
            self._reload = self._loop.call_later(self._backoff.next(), self._load)
            return
        rows, more, unreadable = done.result()
        if unreadable:
            self._lost(unreadable)
        for pending in rows:
            self._make_ready(pending)
        if not more:
            self._loaded = max(self._loaded, self._asked_to)
            # Read from the disk they would be late for their turn, and what comes meanwhile again: it would never catch up.
            for pending in coming:
                if pending.place == self._loaded + 1:
                    self._make_ready(pending)
        self._feed()

    def _lost(self, places: list[int]) -> None:
        note = f"{len(places)} durable events of queue {self._queue} were damaged on disk and are lost"
        self._journal.notes.append(note)
        self._inlet.log.error("%s", note)
