"""Way: how the events of one trigger are led to the function, by what the trigger promises.

    trigger                                its events                                      those on disk, if any
    nobody waits                           tries, outputs                                  likewise
    a caller waits                         straight, no tries, no outputs                  tries, outputs
    durable                                disk, then tries, outputs                       likewise
    dedupe                                 past those that came before, then as above      as above
    batch                                  as above, then through the batch                likewise

What lies on disk may be of an earlier run, of a manifest that was durable, or put back there by a person. Must not know when
versions change, or what a trigger listens to.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from edgehost.batch import Batcher
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.dedupe import Dedupe
from edgehost.delivery.ending import Ending, Entry
from edgehost.delivery.inflow import Inflow, Inlet
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.tries import Delivery, Hold, Target
from edgehost.engine.function import Function
from edgehost.event import Event, Response
from edgehost.manifest.model import Batch, Manifest, Retry
from edgehost.manifest.model import Dedupe as Rule

Submit = Callable[[Event], "asyncio.Future[Response]"]

_ONCE = Retry(dead_letter=False)


@dataclass(frozen=True)
class Promise:
    """What a trigger promises, and how its kind behaves."""

    function: str
    trigger: str
    replies: bool
    """A caller waits for the answer."""
    durable: bool
    dedupe: Rule | None
    batch: Batch | None
    at_once: int
    """How many events the function gets from disk before it has answered the first."""
    source_id: Callable[[Event], str]
    """The id that its source has given an event; "" if none."""


class Stores(Protocol):
    """Where promises are kept."""

    journal: Journal
    outbox: Outbox
    allowance: Allowance


class Destination(Protocol):
    """A version of the function."""

    function: Function
    manifest: Manifest

    def target(self, submit: Callable[..., asyncio.Future[Any]], hold: Hold | None) -> Target: ...


class Way:
    """One trigger's. `submit` and `ask` are the two of edgehost.plugin.TriggerHost; read them anew after `open`, `recover` and
    `lead_to`.
    """

    def __init__(
        self,
        promise: Promise,
        stores: Stores,
        counts: Counter[str],
        held: Callable[[str], None],
        log: logging.LoggerAdapter[logging.Logger],
    ) -> None:
        """`held(reason)` is called when the disk takes none of its events, and with "" when it does again."""
        self.submit: Submit
        self.ask: Submit
        self._promise = promise
        self._stores = stores
        self._counts = counts
        self._held = held
        self._log = log
        self._ending = Ending(promise.function, stores.journal, stores.outbox)
        self._destination: Destination | None = None
        self._batcher: Batcher | None = None
        self._live: Delivery | None = None
        self._from_disk: Delivery | None = None
        self._inflow: Inflow | None = None
        self._dedupe: Dedupe | None = None

    async def open(self, destination: Destination) -> None:
        """Make ready what its promises stand on, then lead there. Raises StateError if the journal cannot be used."""
        promise, journal = self._promise, self._stores.journal
        if promise.durable or promise.dedupe is not None:
            await journal.open()
            queue = await journal.queue("event", promise.function, promise.trigger)
            if promise.dedupe is not None:
                self._dedupe = Dedupe(queue, promise.dedupe, promise.source_id, journal, self._counts, self._run)
        if promise.durable or journal.holds(promise.function, promise.trigger):
            await self._open_inflow()
        self.lead_to(destination)
        if self._inflow is not None:
            self._inflow.start()

    async def recover(self) -> None:
        """Events of this trigger have been put on disk by somebody else. One that did not start finds them when it does."""
        if self._inflow is not None:
            self._inflow.look()
        elif self._destination is not None:
            await self._open_inflow()
            assert self._inflow is not None
            self.lead_to(self._destination)
            self._inflow.start()

    async def _open_inflow(self) -> None:
        promise, stores = self._promise, self._stores
        queue = await stores.journal.queue("event", promise.function, promise.trigger)
        keep_s = promise.dedupe.keep_s if promise.dedupe is not None else 0.0
        inlet = Inlet(queue, promise.at_once, not promise.replies, keep_s, self._held_back, self._log)
        self._inflow = Inflow(inlet, stores.journal, stores.allowance, _nowhere)

    def lead_to(self, destination: Destination) -> None:
        """Send every event from now on there, those that wait for a batch, for another try or on disk included."""
        self._destination = destination
        patient = hasty = hold = destination.function.submit
        if self._promise.replies and not self._promise.durable:
            # A caller who waits is refused while the queue is full: so many callers may wait that nothing else bounds it.
            hasty = partial(patient, patient=False)
        if self._promise.batch is not None:
            patient = hasty = self._batched(hasty)
        batched = self._promise.batch is not None
        if self._inflow is not None:
            self._from_disk = self._delivery(self._from_disk, destination.target(patient, None if batched else hold))
            self._inflow.deliver = self._from_disk.submit
            self._inflow.keep_to(destination.manifest.queue)
        if self._promise.replies and not self._promise.durable:
            self._lead_callers(hasty, destination.target(hasty, None if batched else hasty))
        else:
            self._lead_others(destination.target(hasty, None if batched else hasty))

    def _batched(self, deliver: Callable[[Any], asyncio.Future[Any]]) -> Callable[..., asyncio.Future[Any]]:
        assert self._promise.batch is not None
        self._batcher = self._batcher or Batcher(self._promise.batch, deliver)
        self._batcher.deliver = deliver
        return self._batcher.submit

    def _lead_callers(self, straight: Submit, target: Target) -> None:
        """The caller gets the answer, and nobody else: what failed is the caller's to try again."""
        if self._dedupe is None:
            self.submit = self.ask = straight
            return
        self._live = self._delivery(self._live, replace(target, routes=(), retry=_ONCE))
        self.submit = self.ask = partial(self._dedupe.submit, asked=True)

    def _lead_others(self, target: Target) -> None:
        self._live = self._delivery(self._live, target)
        if self._dedupe is not None:
            self.submit, self.ask = self._dedupe.submit, partial(self._dedupe.submit, asked=True)
        else:
            self.ask = self._live.submit
            self.submit = self._inflow.receive if self._inflow is not None and self._promise.durable else self._live.submit

    def _delivery(self, delivery: Delivery | None, target: Target) -> Delivery:
        delivery = delivery or Delivery(target, self._log, self._ending)
        delivery.target = target
        return delivery

    def _run(self, event: Event, entry: Entry) -> asyncio.Future[Response]:
        """An event that has not come before."""
        if self._promise.durable and not entry.asked and self._inflow is not None:
            return self._inflow.receive(event, entry.key)
        assert self._live is not None
        return self._live.submit(event, entry)

    def key_of(self) -> Callable[[Event], str | None] | None:
        """What `dedupe` knows an event by; None without it."""
        return self._dedupe.key if self._dedupe is not None else None

    def withdraw(self, future: asyncio.Future[Response], take_back: Callable[[asyncio.Future[Response]], bool]) -> bool:
        """Take back an event that the function has not begun; `take_back` does so with a future of the function's own."""
        return take_back(future) or (self._dedupe is not None and self._dedupe.withdraw(future, take_back))

    @property
    def behind(self) -> bool:
        """Whether events are on disk that the function has not answered."""
        return self._inflow is not None and self._inflow.behind

    def hurry(self) -> None:
        """The trigger stops: no event waits any longer for a batch to fill or for a delay between two tries."""
        if self._inflow is not None:
            self._inflow.rest()
        if self._batcher is not None:
            self._batcher.flush()
        for delivery in (self._live, self._from_disk):
            if delivery is not None:
                delivery.hurry()

    async def drained(self) -> None:
        """After `hurry`: return once the function has answered what it has from the disk."""
        if self._inflow is not None:
            await self._inflow.drained()

    def _held_back(self, reason: str) -> None:
        if self._promise.durable:  # else what it left on disk goes on, and what comes now asks for none
            self._held(reason)


def _nowhere(_event: Event, _entry: Entry) -> asyncio.Future[Response]:
    raise AssertionError("an inflow is led to a version before it starts")
