"""Intake: the way into a function for events of a source that cannot take them back (a tty, a pin, a pipe, a datagram).

    room in the function      handed over at once, `max_in_flight` at a time and 16 MiB of them
    none                      waits here, in order, `max_waiting` of them and 16 MiB at the most
    none here either          `overflow` says which one is dropped; it is counted (`dropped`) and the trigger is degraded
      overflow = "block"      none is dropped: `stuffed`, until half of them have gone; the source is not read meanwhile
    all answered again        the trigger is as it was before, unless it has told something else since
    the function stopped      what it had not begun is counted (`unhandled`), unless the source still has it

A durable event is answered once it is on disk, so there the disk takes the place of the function: TO_DISK at a time.
A source that can wait instead (a pipe, a TCP connection, a file) stops reading while `full`, and loses nothing. Must not know
what an event is made from, or what happens to it in the function.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Literal

from msgspec import Struct

from edgehost.event import Event, Response, failure
from edgehost.manifest.model import Positive
from edgehost.plugin import TriggerHost, TriggerState

Answered = Callable[[Response], None]
Dropping = Literal["drop_oldest", "drop_newest"]

NOT_HANDLED = frozenset({"stopped", "not_ready", "no_room"})
"""Answers that say the function was not there: a source that still has the event keeps it and offers it again."""
TO_DISK = 256
"""Durable events that are on their way to the disk at once: they share a transaction. They keep their order there."""
NO_ANSWERS = (
    "write_answers: nobody waits for the answer to a durable event; send it with an output, [outputs.x] kind = \"{kind}\", or "
    "leave durable out"
)
"""Why a trigger that writes answers back is not durable; `kind` is the output to use instead."""
HELD_BYTES = 16 * 1024 * 1024
"""What may wait of one trigger's events in memory, and as much again in the function's hands."""


class IntakeSettings(Struct, frozen=True):
    """The keys of every trigger that has an Intake; a trigger's own Settings extend this struct."""

    max_in_flight: Positive = 64
    """Events the function gets before it has answered the first; 1 keeps them strictly in order."""
    max_waiting: Positive = 10_000
    """Events kept while the function is busy; at most 16 MiB of them."""
    overflow: Literal[Dropping, "block"] = "drop_oldest"
    """Which event goes when one too many waits; block: none, for a source that can wait."""


class _Given:
    """One event in the function. `response` is None until it has answered."""

    __slots__ = ("answered", "response", "size_bytes")

    def __init__(self, answered: Answered | None, size_bytes: int) -> None:
        self.answered = answered
        self.size_bytes = size_bytes
        self.response: Response | None = None


class Intake:
    """One trigger's intake. `room` is called each time `full`, or `stuffed`, has become False again."""

    def __init__(self, settings: IntakeSettings, host: TriggerHost, room: Callable[[], None] | None = None) -> None:
        self._settings = settings
        self._host = host
        self._room = room
        self._window = max(settings.max_in_flight, TO_DISK) if host.durable else settings.max_in_flight
        self._overflow = f"events come faster than the function answers; {settings.overflow} takes effect"
        self._given: deque[_Given] = deque()
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._waiting: deque[tuple[Event, Answered | None, bool]] = deque()
        self._waiting_bytes = 0
        self._full = False
        self._stuffed = False
        self._overflowing = False
        self._before: tuple[TriggerState, str] = "starting", ""
        """How the trigger was when the overflow began."""
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def full(self) -> bool:
        """True while the function has all it takes at once: a source that can wait offers no more."""
        return self._full

    @property
    def stuffed(self) -> bool:
        """True while as much waits as may, with overflow = "block": the source is not to be read."""
        return self._stuffed

    @property
    def held(self) -> tuple[int, int]:
        """How many events are in memory on behalf of this trigger, and their bytes."""
        return self._in_flight + len(self._waiting), self._in_flight_bytes + self._waiting_bytes

    def offer(self, event: Event, answered: Answered | None = None, asked: bool = False) -> None:
        """Hand over one event. `answered(response)` is called once, in the order in which the events were offered; an event that
        is dropped has the answer `dropped`. `asked`: it is for the function's own answer, also where the trigger is durable."""
        self._empty.clear()
        if not self._waiting and not self._busy():
            self._submit(event, answered, asked)
        elif self._make_room(len(event.body)):
            self._waiting.append((event, answered, asked))
            self._waiting_bytes += len(event.body)
            self._stuffed = self._settings.overflow == "block" and self._packed()
        else:
            self._drop(answered)
        self._full = self._busy()

    async def drain(self, within_s: float | None = None) -> int:
        """Wait until every event offered has been answered; after `within_s` seconds drop what still waits outside of the
        function. Returns how many were dropped."""
        before = self._host.counts["unhandled"]
        lost = 0
        try:
            await asyncio.wait_for(self._empty.wait(), within_s)
        except asyncio.TimeoutError:
            lost = len(self._waiting)
            while self._waiting:
                self._drop(self._waiting.popleft()[1])
            self._waiting_bytes = 0
            await self._empty.wait()
        if unhandled := self._host.counts["unhandled"] - before:
            self._host.log.warning("%d events are lost: the function stopped before it took them", unhandled)
        return lost

    def _busy(self) -> bool:
        return self._in_flight >= self._window or self._in_flight_bytes >= HELD_BYTES

    def _packed(self) -> bool:
        return len(self._waiting) >= self._settings.max_waiting or self._waiting_bytes >= HELD_BYTES

    def _submit(self, event: Event, answered: Answered | None, asked: bool) -> None:
        given = _Given(answered, len(event.body))
        self._in_flight += 1
        self._in_flight_bytes += given.size_bytes
        self._given.append(given)
        hand_over = self._host.ask if asked else self._host.submit
        hand_over(event).add_done_callback(partial(self._answer, given))

    def _answer(self, given: _Given, future: asyncio.Future[Response]) -> None:
        given.response = future.result()
        self._in_flight -= 1
        self._in_flight_bytes -= given.size_bytes
        if given.answered is None and given.response.code in NOT_HANDLED:
            self._host.counts["unhandled"] += 1
        while self._given and (response := self._given[0].response) is not None:
            answered = self._given.popleft().answered
            if answered is not None:
                answered(response)
        while self._waiting and not self._busy():
            event, waiting, asked = self._waiting.popleft()
            self._waiting_bytes -= len(event.body)
            self._submit(event, waiting, asked)
        self._relax()

    def _relax(self) -> None:
        """Take up what was held back once there is room, and tell that the overflow is over once all is answered."""
        if self._stuffed and len(self._waiting) <= self._settings.max_waiting // 2 and self._waiting_bytes <= HELD_BYTES // 2:
            self._stuffed = False
            if self._room is not None:
                self._room()
        if self._full and not self._waiting and not self._busy():
            self._full = False
            if self._room is not None and self._settings.overflow != "block":
                self._room()
        if not self._given:
            if self._overflowing:
                self._overflow_ends()
            self._empty.set()

    def _make_room(self, size_bytes: int) -> bool:
        """Make room for one more event that waits, or say that there is none."""
        if self._settings.overflow == "block":
            return True  # whoever offers it stops reading at `stuffed`: what one read brings is the most beyond that
        while len(self._waiting) >= self._settings.max_waiting or self._waiting_bytes + size_bytes > HELD_BYTES:
            if self._settings.overflow == "drop_newest" or not self._waiting:
                return False
            event, answered, _ = self._waiting.popleft()
            self._waiting_bytes -= len(event.body)
            self._drop(answered)
        return True

    def _drop(self, answered: Answered | None) -> None:
        self._host.counts["dropped"] += 1
        if not self._overflowing:
            self._overflow_begins()
        if answered is not None:
            answered(failure("dropped", "more events waited than max_waiting; make the function quicker or give it more workers"))

    def _overflow_begins(self) -> None:
        self._overflowing = True
        self._before = self._host.state, self._host.message
        self._host.report("degraded", self._overflow)

    def _overflow_ends(self) -> None:
        """What another part of the trigger has told meanwhile, of its source say, is what holds now."""
        self._overflowing = False
        self._host.log.info("the function keeps up again; %d events dropped since the start", self._host.counts["dropped"])
        if (self._host.state, self._host.message) == ("degraded", self._overflow):
            self._host.report(*self._before)
