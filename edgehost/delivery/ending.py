"""Ending: the one transaction in which an event ends: it is settled, its answer kept under its key, its parcels stored.

Knows rows and the journal; must not know how often an event was tried, or how a parcel leaves.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec
from msgspec.structs import replace

from edgehost.delivery import faults
from edgehost.delivery.journal import Journal
from edgehost.delivery.lane import Lane
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.rows import AnsweredRow, Change, DeadRow
from edgehost.engine.frames import Publication
from edgehost.event import Event, Response
from edgehost.parcel import Parcel

_ANSWER_BYTES = 64 * 1024
"""A larger body is not kept for an event that comes again: it is answered with the status alone."""

UNBEGUN: Final = frozenset({"no_worker", "not_ready", "queue_full", "dropped", "stopped"})
"""Failures of an event that the function has not seen."""
FINAL: Final = frozenset({"stopped", "not_ready", "cancelled", "dropped", "no_room"})
"""Failures that another try would not change: the source still has the event, or the queue's policy has spoken."""
STAYS: Final = UNBEGUN | FINAL
"""Answers after which an event on disk is as it was: it waits there and counts no attempt."""

_encode = msgspec.msgpack.Encoder().encode


class Entry:
    """What is known of an event beside itself, while it is worked on. `place` is 0 if it is not on disk."""

    __slots__ = ("asked", "attempts", "given", "keep_s", "kept", "key", "place")

    def __init__(
        self, place: int = 0, key: str | None = None, keep_s: float = 0.0, attempts: int = 0, asked: bool = False
    ) -> None:
        self.place = place
        self.key = key
        self.keep_s = keep_s
        self.attempts = attempts
        self.asked = asked
        """Its sender waits for the answer, so the answer is kept whole, and a failure is the sender's to try again."""
        self.given: asyncio.Future[Response] | None = None
        """The function's own future of this try, for who wants to take it back."""
        self.kept: list[Publication] = []
        """What the handler has published in this try."""


class Ending:
    """One function's."""

    def __init__(self, function: str, journal: Journal, outbox: Outbox) -> None:
        self._function = function
        self._journal = journal
        self._outbox = outbox

    async def end(
        self, event: Event, entry: Entry, response: Response, parcels: list[tuple[Lane, Parcel]], dead_letter: bool
    ) -> None:
        """Returns when all of it is on disk. Raises StateError if it never will be; then nothing of it has happened."""
        stored = await self._outbox.rows(parcels)
        answered: tuple[AnsweredRow, ...] = ()
        if entry.key is not None and not (entry.asked and response.code):
            kept = _encode(_brief(response, entry.asked))
            answered = (AnsweredRow(entry.key, self._journal.now() + entry.keep_s, kept),)
        dead: tuple[DeadRow, ...] = ()
        if response.code and dead_letter and not entry.asked:
            dead = (self._letter(event, response, entry.attempts + 1),)
        settled = (entry.place,) if entry.place else ()
        change = Change(settled=settled, stored=tuple(row for _, row in stored), answered=answered, dead=dead)
        if change.settled or change.stored or change.answered or change.dead:
            try:
                await self._journal.committed(change)
            except BaseException:
                self._outbox.never_stored(stored)
                raise
        if dead:
            faults.at("dead.written")
        self._outbox.stored(stored)

    async def bury(self, event: Event, response: Response, attempts: int) -> None:
        """A dead letter for an event that is not on disk. Raises StateError if it cannot be kept.

        No promise needs it: where the disk has to be saved it is only counted.
        """
        if self._journal.spares:
            self._journal.spared += 1
            return
        await self._journal.open()
        await self._journal.committed(Change(dead=(self._letter(event, response, attempts),)))
        faults.at("dead.written")

    def tried(self, entry: Entry) -> None:
        """It failed and is tried again: after a restart its attempts are counted on."""
        self._journal.commit(Change(tried=((entry.place, entry.attempts),)))

    def _letter(self, event: Event, response: Response, attempts: int) -> DeadRow:
        return DeadRow(
            function=self._function,
            trigger=event.trigger.name,
            output="",
            event_id=event.id,
            code=response.code,
            error=response.body.decode("utf-8", "replace"),
            attempts=attempts,
            received=event.timestamp.timestamp(),
            failed=time.time(),
            at=self._journal.now(),
            body=_encode(event),
        )


def _brief(response: Response, whole: bool) -> Response:
    """What is kept of an answer."""
    if whole and len(response.body) <= _ANSWER_BYTES:
        return replace(response, chunks=None, body=bytes(response.body))
    return Response(response.status, code=response.code)
