"""Delivery: what happens to one event between its trigger and its acknowledgement: tries, its outputs, its end.

    failed, tries left           again, after a back-off
    failed, not even begun       stays where it is, if that is the disk; else as any failure
    failed, the function ends    stays on disk, its attempts counted; else tried now, for the last time
    failed for good              dead letter, then the outputs that want failures
    answered                     its outputs
    all of it safe               the future resolves: whoever submitted it acknowledges

An event on disk or known by a key ends in one transaction (Ending): it is settled, its answer kept, its parcels stored, together.
Only for events nobody waits for, and for those that must not run twice. Must not know how a function runs or what an output is
made of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec.structs import replace

from edgehost.backoff import Backoff
from edgehost.delivery import faults
from edgehost.delivery.ending import FINAL, STAYS, Ending, Entry
from edgehost.delivery.lane import Lane
from edgehost.delivery.parting import all_sent, divided, in_one_piece, opened, published
from edgehost.delivery.route import Route
from edgehost.engine.call import whole
from edgehost.engine.frames import Publication
from edgehost.errors import EdgehostError
from edgehost.event import Event, Response, failure
from edgehost.manifest.model import Retry
from edgehost.parcel import Parcel

Submit = Callable[[Event], "asyncio.Future[Response]"]
Hold = Callable[[Event, "list[Publication]"], "asyncio.Future[Response]"]

@dataclass(frozen=True)
class Target:
    """What a version of the function gives a delivery: its way in, its retry policy, its outputs, its count of retries."""

    submit: Submit
    retry: Retry
    routes: Sequence[Route]
    retried: Callable[[], None]
    hold: Hold | None = None
    """As `submit`, with what the handler publishes kept in the list instead of sent; None: events go in batches."""


class Delivery:
    """One trigger's way through the function: `submit` resolves when the answer, and every output it goes to, is safe.

    It outlives the version it leads to: assign `target` at an upgrade, and an event that waits for its next try goes there.
    """

    def __init__(self, target: Target, log: logging.LoggerAdapter[logging.Logger], ending: Ending | None = None) -> None:
        self.target = target
        self._log = log
        self._ending = ending
        self._loop = asyncio.get_running_loop()
        self._sending: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.TimerHandle, Callable[[], None]] = {}
        self._hurried = False

    def hurry(self) -> None:
        """The function is about to end: what waits for its next try is tried now, for the last time."""
        self._hurried = True
        for timer, try_now in list(self._waiting.items()):
            timer.cancel()
            try_now()  # an event on disk is not tried any more: `_try` leaves it there
        self._waiting.clear()

    def submit(self, event: Event, entry: Entry | None = None) -> asyncio.Future[Response]:
        """As Function.submit, for an event nobody waits for."""
        answer: asyncio.Future[Response] = self._loop.create_future()
        self._try(event, answer, None, entry)
        return answer

    def _try(self, event: Event, answer: asyncio.Future[Response], backoff: Backoff | None, entry: Entry | None) -> None:
        target = self.target
        if self._hurried and entry is not None and entry.place:
            _settle(answer, failure("stopped", "the function stops; the event stays on disk"))
            return
        if entry is not None and target.hold is not None:
            entry.kept.clear()  # of a try that failed nothing leaves
            future = target.hold(event, entry.kept)
        else:
            future = target.submit(event)
        if entry is not None:
            entry.given = future
        future.add_done_callback(partial(self._answered, event, answer, backoff, entry, target))

    def _answered(
        self,
        event: Event,
        answer: asyncio.Future[Response],
        backoff: Backoff | None,
        entry: Entry | None,
        target: Target,
        done: asyncio.Future[Response],
    ) -> None:
        response = done.result()
        if response.code and self._again(event, answer, backoff, entry, target.retry, response):
            return
        if entry is not None:
            self._in_task(self._end(event, answer, entry, target, response))
            return
        if response.code:
            self._tell(event, f"failed for good ({response.code}): {response.body.decode('utf-8', 'replace')}")
            if self._ending is not None and target.retry.dead_letter and response.code not in FINAL:
                self._in_task(self._bury(event, answer, response, backoff, target))
                return
        self._give_out(event, answer, response, target)

    def _give_out(self, event: Event, answer: asyncio.Future[Response], response: Response, target: Target) -> None:
        routes = [route for route in target.routes if route.wants(event.trigger.name, response.failed)]
        waits: Awaitable[None] | None
        try:
            if response.chunks is not None:
                waits = self._send_stream(event, response, routes)
            elif len(routes) == 1 and (lane := routes[0].lane) is not None:
                found = lane.send_for(partial(_End, self, event, answer, response), event, response)
                if isinstance(found, _End):
                    return
                waits = found
            else:
                waits = self._send(event, response, routes)
        except Exception as error:  # an output is a plugin: whatever it raises is this event's trouble, not the agent's
            response, waits = self._not_sent(event, error), None
        if waits is None:
            _settle(answer, response)
        elif isinstance(waits, asyncio.Future):
            waits.add_done_callback(partial(self._sent, event, answer, response))
        else:
            self._in_task(self._when_sent(event, answer, response, waits))

    def _sent(self, event: Event, answer: asyncio.Future[Response], response: Response, wait: asyncio.Future[None]) -> None:
        """The one output has said how it went. A task for what goes well would cost as much as all the rest of it."""
        if wait.cancelled() or wait.exception() is not None:
            self._in_task(self._when_sent(event, answer, response, wait))
        else:
            _settle(answer, response)

    def _in_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _again(
        self,
        event: Event,
        answer: asyncio.Future[Response],
        backoff: Backoff | None,
        entry: Entry | None,
        retry: Retry,
        response: Response,
    ) -> bool:
        """Try a failed event once more, later, if the policy says so."""
        backoff = backoff or _backoff(retry, entry)
        on_disk = entry is not None and entry.place != 0
        if response.code in (STAYS if on_disk else FINAL) or response.code not in retry.on:
            return False
        if (self._hurried and not on_disk) or backoff.failures + 1 >= retry.attempts:
            return False
        delay_s = backoff.next()
        self.target.retried()
        self._log.warning("event %s failed (%s), try %d in %.1f s", event.id, response.code, backoff.failures + 1, delay_s)
        if entry is not None:
            entry.attempts = backoff.failures
            if self._ending is not None and on_disk:
                self._ending.tried(entry)
        try_now = partial(self._try, event, answer, backoff, entry)
        if self._hurried:
            try_now()  # it stays on disk: nobody waits for its delay
            return True

        def due() -> None:
            del self._waiting[timer]
            try_now()

        timer = self._loop.call_later(delay_s, due)
        self._waiting[timer] = try_now
        return True

    async def _end(
        self, event: Event, answer: asyncio.Future[Response], entry: Entry, target: Target, response: Response
    ) -> None:
        """The end of an event on disk, or known by a key: what is stored goes into its transaction, the rest is sent before."""
        assert self._ending is not None
        faults.at("delivery.answered")
        try:
            if response.chunks is not None:
                response = await in_one_piece(response)
                if response.code and self._again(event, answer, None, entry, target.retry, response):
                    return
            if response.code in (STAYS if entry.place else FINAL):
                _settle(answer, response)  # it stays on disk, or with its source
                return
            response, parcels = await self._sent_before(event, entry, target, response)
            if response.code:
                self._tell(event, f"failed for good ({response.code}): {response.body.decode('utf-8', 'replace')}")
            await self._ending.end(event, entry, response, parcels, target.retry.dead_letter)
            faults.at("delivery.settled")
            _settle(answer, response)
        except Exception as error:  # the journal takes nothing any more: the event is as it was, here or at its source
            if not isinstance(error, EdgehostError):
                self._log.exception("event %s: its end failed", event.id)
            self._tell(event, f"is not settled: {error}")
            _settle(answer, failure("stopped", str(error)))

    async def _sent_before(
        self, event: Event, entry: Entry, target: Target, response: Response
    ) -> tuple[Response, list[tuple[Lane, Parcel]]]:
        """Send what no transaction holds (a pin, a log, another function): at least once. Gives what one holds."""
        wanted = [route for route in target.routes if route.wants(event.trigger.name, response.failed)]
        try:
            said = published(entry, (*target.routes, *self.target.routes))
            await opened([route for route in (*wanted, *(route for route, _ in said)) if route.lane is not None])
            parcels, waits = divided(event, entry, response, wanted, said)
            if waits:
                await all_sent(waits)
            return response, parcels
        except Exception as error:  # an output is a plugin
            return self._not_sent(event, error), []

    async def _bury(
        self, event: Event, answer: asyncio.Future[Response], response: Response, backoff: Backoff | None, target: Target
    ) -> None:
        """A dead letter for an event of no other record, before it is acknowledged."""
        assert self._ending is not None
        attempts = backoff.failures + 1 if backoff is not None else 1
        try:
            await self._ending.bury(event, response, attempts)
        except EdgehostError as error:
            self._tell(event, f"is not kept as a dead letter: {error}")
        self._give_out(event, answer, response, target)

    def _send(self, event: Event, response: Response, routes: list[Route]) -> Awaitable[None] | None:
        """Give the answer to its outputs; None when it is safe with all of them already."""
        waits = [wait for route in routes if (wait := route.send(event, response)) is not None]
        if len(waits) == 1:
            return waits[0]
        return all_sent(waits) if waits else None

    async def _send_stream(self, event: Event, response: Response, routes: list[Route]) -> None:
        waits = self._send(event, await whole(response), routes)
        if waits is not None:
            await waits

    async def _when_sent(
        self, event: Event, answer: asyncio.Future[Response], response: Response, waits: Awaitable[None]
    ) -> None:
        try:
            await waits
        except Exception as error:
            await self._unsent(event, answer, error)
        else:
            _settle(answer, replace(response, chunks=None))

    async def _unsent(self, event: Event, answer: asyncio.Future[Response], error: BaseException) -> None:
        response = self._not_sent(event, error)
        if self._ending is not None and self.target.retry.dead_letter:
            try:
                await self._ending.bury(event, response, 1)
            except EdgehostError as trouble:
                self._tell(event, f"is not kept as a dead letter: {trouble}")
        _settle(answer, response)

    def _not_sent(self, event: Event, error: BaseException) -> Response:
        self._tell(event, f"its answer could not be sent: {error}")
        return failure("output_failed", str(error))

    def _tell(self, event: Event, what: str) -> None:
        self._log.error("event %s: %s", event.id, what, extra={"event_id": event.id})


class _End:
    """The end of an event whose one output has a lane: told by it, in the place of a future and a turn of the loop for each event
    (see direct.py, Safe).
    """

    __slots__ = ("_answer", "_delivery", "_event", "_response")

    def __init__(self, delivery: Delivery, event: Event, answer: asyncio.Future[Response], response: Response) -> None:
        self._delivery, self._event, self._answer, self._response = delivery, event, answer, response

    def done(self) -> bool:
        return self._answer.done()

    def set_result(self, _result: None, /) -> None:
        self._answer.set_result(self._response)

    def set_exception(self, error: BaseException, /) -> None:
        self._delivery._in_task(self._delivery._unsent(self._event, self._answer, error))


def _backoff(retry: Retry, entry: Entry | None) -> Backoff:
    """For the next try: of an event on disk an earlier run may have made some."""
    backoff = Backoff(retry.delay_s, retry.max_delay_s)
    backoff.failures = entry.attempts if entry is not None else 0
    return backoff


def _settle(answer: asyncio.Future[Response], response: Response) -> None:
    if not answer.done():
        answer.set_result(response)
