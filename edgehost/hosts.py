"""What the agent gives its plugins: the hosts of edgehost/plugin.py, one for each trigger and each output of a function.

A trigger's host is also where its events are led: past those that came before, over the disk, through a batch, through retries
and outputs, to the version in place. Must not know when versions change.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgehost import plugin
from edgehost.batch import Batcher
from edgehost.config import Config
from edgehost.delivery.dedupe import Dedupe
from edgehost.delivery.ending import Ending, Entry
from edgehost.delivery.inflow import Allowance, Inflow
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.tries import Delivery
from edgehost.engine.nursery import Nursery
from edgehost.event import Event, Origin, Response
from edgehost.log import BoundLogger
from edgehost.manifest.model import Manifest, OutputSpec, Retry, TriggerSpec
from edgehost.mqtt import Session
from edgehost.plugin import TriggerState
from edgehost.profile import Profile

if TYPE_CHECKING:
    from edgehost.version import Version

T = TypeVar("T")
Submit = Callable[[Event], "asyncio.Future[Response]"]

_ONCE = Retry(dead_letter=False)
_log = logging.getLogger("edgehost.deployment")


class Surroundings(Protocol):
    """What a deployment needs of its agent."""

    config: Config
    board: Profile
    standalone: bool
    nursery: Nursery
    journal: Journal
    outbox: Outbox
    allowance: Allowance

    def broker(self, name: str) -> Session: ...

    def shared(self, key: str, make: Callable[[], T]) -> T: ...

    def call(self, name: str, event: Event) -> asyncio.Future[Response]: ...

    def deliver(self, name: str, event: Event) -> asyncio.Future[Response]: ...


class TriggerHost:
    """The edgehost.plugin.TriggerHost of one trigger."""

    def __init__(
        self, manifest: Manifest, spec: TriggerSpec, around: Surroundings, withdraw: Callable[[asyncio.Future[Response]], bool]
    ) -> None:
        self.function_name = manifest.name
        self.folder = manifest.folder
        self.origin = Origin(spec.kind, spec.name)
        self.standalone = around.standalone
        self.config = around.config
        self.log = BoundLogger(_log, function=manifest.name, trigger=spec.name)
        self.broker = around.broker
        self.shared = around.shared
        self.children = around.nursery.kept
        self.withdraw = withdraw
        self.durable = spec.durable
        self.submit: Submit
        self.ask: Submit
        self.state: TriggerState = "starting"
        self.message = ""
        self.started = False
        """Its trigger's `start` has returned; what went wrong since is a state that mends itself."""
        self.counts: Counter[str] = Counter()
        self._spec = spec
        self._around = around
        self._kind: Any = plugin.load("trigger", spec.kind)
        self._batcher: Batcher | None = None
        self._ending = Ending(manifest.name, around.journal, around.outbox)
        self._delivery: Delivery | None = None
        self._inflow: Inflow | None = None
        self._dedupe: Dedupe | None = None
        self._before: tuple[TriggerState, str] = "starting", ""
        """How the trigger was when the disk began to hold its events back."""

    async def open(self, version: Version) -> None:
        """Make ready what its promises stand on, then lead to `version`. Raises StateError if the journal cannot be used."""
        spec, journal = self._spec, self._around.journal
        if spec.durable or spec.dedupe is not None:
            await journal.open()
            queue = await journal.queue("event", self.function_name, spec.name)
            if spec.dedupe is not None:
                source_id = getattr(self._kind, "source_id", _no_id)
                self._dedupe = Dedupe(queue, spec.dedupe, source_id, journal, self.counts, self._run)
        if spec.durable or journal.holds(self.function_name, spec.name):
            await self._open_inflow()
        self.lead_to(version)
        if self._inflow is not None:
            self._inflow.start()

    async def recover(self) -> None:
        """Events of this trigger have been put on disk by somebody else."""
        if self._inflow is not None:
            self._inflow.look()
        elif self._delivery is not None:
            await self._open_inflow()
            assert self._inflow is not None
            self._inflow.deliver = self._delivery.submit
            self._inflow.start()

    async def _open_inflow(self) -> None:
        spec, around = self._spec, self._around
        queue = await around.journal.queue("event", self.function_name, spec.name)
        window = getattr(spec.settings, "max_in_flight", getattr(self._kind, "max_in_flight", 64))
        if spec.batch is not None:
            window = max(window, 2 * spec.batch.size)
        keep_s = spec.dedupe.keep_s if spec.dedupe is not None else 0.0
        self._inflow = Inflow(
            queue, around.journal, around.allowance, _nowhere, window, not self._kind.replies, keep_s, self._held_back, self.log
        )

    def lead_to(self, version: Version) -> None:
        """Send every event from now on to `version`, those that wait for a batch, for another try or on disk included."""
        submit: Callable[[Any], asyncio.Future[Any]] = version.function.submit
        if self._spec.batch is not None:
            self._batcher = self._batcher or Batcher(self._spec.batch, submit)
            self._batcher.deliver = submit
            submit = self._batcher.submit
        if self._kind.replies and self._dedupe is None and self._inflow is None:
            self.submit = self.ask = submit if self._batcher is not None else partial(version.function.submit, patient=False)
            return
        target = version.target(submit, None if self._batcher is not None else version.function.submit)
        if self._kind.replies and not self.durable:
            # The caller gets the answer, and nobody else: what failed is the caller's to try again.
            target = replace(target, routes=(), retry=_ONCE)
        delivery = self._delivery = self._delivery or Delivery(target, self.log, self._ending)
        delivery.target = target
        if self._inflow is not None:
            self._inflow.deliver = delivery.submit
        if self._dedupe is not None:
            self.ask = partial(self._dedupe.submit, asked=True)
            self.submit = self.ask if self._kind.replies and not self.durable else self._dedupe.submit
        else:
            self.ask = delivery.submit
            self.submit = self._inflow.receive if self._inflow is not None and self.durable else delivery.submit

    def _run(self, event: Event, entry: Entry) -> asyncio.Future[Response]:
        """An event that has not come before."""
        if self.durable and not entry.asked and self._inflow is not None:
            return self._inflow.receive(event, entry.key)
        assert self._delivery is not None
        return self._delivery.submit(event, entry)

    def hurry(self) -> None:
        """The trigger stops: no event waits any longer for a batch to fill or for a delay between two tries."""
        if self._inflow is not None:
            self._inflow.rest()
        if self._batcher is not None:
            self._batcher.flush()
        if self._delivery is not None:
            self._delivery.hurry()

    async def drained(self) -> None:
        """After `hurry`: return once the function has answered what it has from the disk."""
        if self._inflow is not None:
            await self._inflow.drained()

    def _held_back(self, reason: str) -> None:
        """The disk has no room for its events, or has again."""
        if reason:
            if self.state != "degraded":
                self._before = self.state, self.message
            self.report("degraded", reason)
        elif self.state == "degraded":
            self.report(*self._before)

    def report(self, state: TriggerState, message: str = "") -> None:
        if (state, message) != (self.state, self.message):
            self.state, self.message = state, message
            level = logging.WARNING if state in ("degraded", "failed") else logging.INFO
            self.log.log(level, "%s%s", state, f": {message}" if message else "")


class OutputHost:
    """The edgehost.plugin.OutputHost of one output."""

    def __init__(self, manifest: Manifest, spec: OutputSpec, around: Surroundings) -> None:
        self.function_name = manifest.name
        self.name = spec.name
        self.config = around.config
        self.log = BoundLogger(_log, function=manifest.name, trigger=spec.name)
        self.broker = around.broker
        self.shared = around.shared
        self.call = around.deliver


def _no_id(_event: Event) -> str:
    """For a kind of trigger whose source gives its events no id."""
    return ""


def _nowhere(_event: Event, _entry: Entry) -> asyncio.Future[Response]:
    raise AssertionError("an inflow is led to a version before it starts")
