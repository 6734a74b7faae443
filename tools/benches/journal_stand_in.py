"""A trigger's way over the journal without an agent around it: real Journal, Inflow, Dedupe, Delivery, Ending and Lane.

Stood in for are the function, which answers at once or never takes an event, and the output, whose receiver takes everything at
once. Measures nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime, timezone
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar

import msgspec
from msgspec import Struct

from edgehost.delivery.allowance import Allowance
from edgehost.delivery.dedupe import Dedupe
from edgehost.delivery.ending import Ending, Entry
from edgehost.delivery.inflow import Inflow, Inlet
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.route import Route
from edgehost.delivery.tries import Delivery, Target
from edgehost.delivery.writer import Writer
from edgehost.event import Event, Origin, Response
from edgehost.manifest.model import Dedupe as Rule
from edgehost.manifest.model import OutputSpec, Retry, Store
from edgehost.parcel import Parcel, Slip

BODY = b"x" * 100
_ORIGIN = Origin("mqtt", "in")
_URL = "mqtt://127.0.0.1:1883"
_ANSWER = Response(200, "text/plain", {}, BODY)
_WINDOW = 1000
"""Wide: the figures are the journal's, not those of a narrow function."""
_NO_LIMIT = 1 << 40
_NO_PACE = 1e6
"""What waits to leave leaves as fast as it can."""
_log = logging.LoggerAdapter(logging.getLogger("edgehost.bench"), {})


def _event(number: int) -> Event:
    """As an mqtt trigger makes it."""
    return Event(BODY, "", str(number), datetime.now(timezone.utc), _ORIGIN, "sensors/temperature/1", {}, "", _URL)


def encoded_event() -> bytes:
    """What of it lies on disk."""
    return msgspec.msgpack.encode(_event(12345))


class Source:
    """Where events come from: `submit` makes one and sees it through. `over` is called when one is on disk, or, if the function
    answers, when it has ended there; `waits_s` is how long each took to be accepted.
    """

    def __init__(self, journal: Journal, answered: bool) -> None:
        self.over: Callable[[], None]
        self.waits_s: list[float] = []
        self._journal = journal
        self._answered = answered
        self._outbox = Outbox(journal, _NO_LIMIT, _NO_PACE)
        self._allowance = Allowance(_NO_LIMIT)
        self._numbers = count()
        self._never: list[asyncio.Future[Response]] = []
        self._receive: Callable[[Event], asyncio.Future[Response]]
        self._delivery: Delivery

    @classmethod
    async def opened(cls, folder: Path, answered: bool, dedupe: bool, output: bool) -> Source:
        """With a journal of its own in `folder`."""
        journal = Journal(folder / "journal.db")
        await journal.open()
        source = cls(journal, answered)
        queue = await journal.queue("event", "bench", "in")
        await source._lead(queue, dedupe, [await source._route()] if output else [])
        return source

    async def _route(self) -> Route:
        output = _Taken()
        lane = self._outbox.lane("bench", "out")
        await lane.open()
        lane.attach(output, Store())
        return Route(OutputSpec("out", "taken", _NoSettings()), output, lane)

    async def _lead(self, queue: int, dedupe: bool, routes: list[Route]) -> None:
        ending = Ending("bench", self._journal, self._outbox)
        self._delivery = Delivery(Target(_answer_at_once, Retry(), routes, lambda: None), _log, ending)
        inlet = Inlet(queue, _WINDOW, True, 60.0, lambda _reason: None, _log)
        inflow = Inflow(inlet, self._journal, self._allowance, self._deliver)
        inflow.start()
        self._receive = inflow.receive
        if dedupe:
            known = Dedupe(queue, Rule(), lambda event: event.id, self._journal, Counter(), _into(inflow))
            self._receive = known.submit

    def submit(self) -> None:
        """One more event."""
        began = time.perf_counter()
        self._receive(_event(next(self._numbers))).add_done_callback(partial(self._accepted, began))

    def _accepted(self, began: float, future: asyncio.Future[Response]) -> None:
        if future.result().status != 202:
            raise RuntimeError(f"not accepted: {future.result()}")
        self.waits_s.append(time.perf_counter() - began)
        if not self._answered:
            self.over()

    def _deliver(self, event: Event, entry: Entry) -> asyncio.Future[Response]:
        if not self._answered:
            self._never.append(asyncio.get_running_loop().create_future())
            return self._never[-1]
        ended = self._delivery.submit(event, entry)
        ended.add_done_callback(self._ended)
        return ended

    def _ended(self, _ended: asyncio.Future[Response]) -> None:
        self.over()

    async def ended(self) -> None:
        """Return when nothing waits to leave, and everything handed over is on disk."""
        while self._outbox.bytes:  # noqa: ASYNC110  a bench's end: not worth an event
            await asyncio.sleep(0.005)
        await self._journal.ask(lambda _connection: None)

    def written_bytes(self) -> int:
        """What the journal's thread has written since it began."""
        return next(thread for thread in threading.enumerate() if isinstance(thread, Writer)).written_bytes()

    async def close(self) -> None:
        """End the journal's thread."""
        self._outbox.close()
        await self._journal.close()


def _answer_at_once(_event: Event) -> asyncio.Future[Response]:
    future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    future.set_result(_ANSWER)
    return future


def _into(inflow: Inflow) -> Callable[[Event, Entry], asyncio.Future[Response]]:
    return lambda event, entry: inflow.receive(event, entry.key)


class _NoSettings(Struct):
    pass


class _Taken:
    """An output whose receiver is there and takes everything at once. See edgehost/plugin.py, Forwarding."""

    Settings: ClassVar[type[Struct]] = _NoSettings
    window: ClassVar[int] = 10
    numbered = False
    receiver = "taken"
    reachable = True

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def on_reachable(self, tell: Callable[[], None]) -> None: ...

    def send(self, event: Event, response: Response) -> asyncio.Future[None]:
        return self.post(self.pack(event, response), False)

    def pack(self, _event: Event, response: Response) -> Parcel:
        return Parcel("out", response.body, response.content_type, response.headers)

    def post(self, _parcel: Parcel, late: bool, slip: Slip | None = None) -> asyncio.Future[None]:
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent

    def recall(self, waits: Collection[asyncio.Future[None]], begun: bool) -> None: ...
