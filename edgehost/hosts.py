"""What the agent gives its plugins: the hosts of edgehost/plugin.py, one for each trigger and each output of a function.

Which way a trigger's events go is said in edgehost/delivery/way.py. Must not know when versions change.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgehost import plugin
from edgehost.config import Config
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.way import Promise, Submit, Way
from edgehost.engine.nursery import Nursery
from edgehost.event import Event, Origin, Response
from edgehost.log import BoundLogger
from edgehost.manifest.model import Manifest, OutputSpec, TriggerSpec
from edgehost.mqtt import Session
from edgehost.plugin import TriggerState
from edgehost.profile import Profile

if TYPE_CHECKING:
    from edgehost.version import Version

T = TypeVar("T")

_AT_ONCE = 64
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
        self._take_back = withdraw
        self.durable = spec.durable
        self.dedupes = spec.dedupe is not None
        self.submit: Submit
        self.ask: Submit
        self.state: TriggerState = "starting"
        self.message = ""
        self.started = False
        """Its trigger's `start` has returned; what went wrong since is a state that mends itself."""
        self.counts: Counter[str] = Counter()
        self._held = ""
        """Why the disk takes none of its events."""
        self.way = Way(_promise(manifest, spec), around, self.counts, self._held_back, self.log)

    async def open(self, version: Version) -> None:
        """See Way.open; likewise the next two."""
        await self.way.open(version)
        self._take_up()

    async def recover(self) -> None:
        await self.way.recover()
        self._take_up()

    def lead_to(self, version: Version) -> None:
        self.way.lead_to(version)
        self._take_up()

    def _take_up(self) -> None:
        """An attribute of its own: it is read for every event."""
        if hasattr(self.way, "submit"):
            self.submit, self.ask = self.way.submit, self.way.ask

    def withdraw(self, future: asyncio.Future[Response]) -> bool:
        return self.way.withdraw(future, self._take_back)

    @property
    def behind(self) -> bool:
        return self.way.behind

    @property
    def shown(self) -> tuple[TriggerState, str]:
        """State and message for people: a trigger that would run but for the disk is degraded, whatever it tells of itself."""
        return ("degraded", self._held) if self._held and self.state in ("starting", "running") else (self.state, self.message)

    def _held_back(self, reason: str) -> None:
        """The disk has no room for its events, or has again."""
        self._held = reason
        self.log.log(logging.WARNING if reason else logging.INFO, "%s: %s", *(("degraded", reason) if reason else self.shown))

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


def _promise(manifest: Manifest, spec: TriggerSpec) -> Promise:
    kind: Any = plugin.load("trigger", spec.kind)
    at_once = getattr(spec.settings, "max_in_flight", getattr(kind, "max_in_flight", _AT_ONCE))
    if spec.batch is not None:
        at_once = max(at_once, 2 * spec.batch.size)
    source_id = getattr(kind, "source_id", _no_id)
    return Promise(manifest.name, spec.name, kind.replies, spec.durable, spec.dedupe, spec.batch, at_once, source_id)


def _no_id(_event: Event) -> str:
    """For a kind of trigger whose source gives its events no id."""
    return ""
