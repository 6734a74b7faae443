"""What the agent gives its plugins: the hosts of edgehost/plugin.py, one for each trigger and each output of a function.

A trigger's host is also where its events are led: through a batch, through retries and outputs, to the version in place. Must not
know when versions change.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from edgehost import plugin
from edgehost.batch import Batcher
from edgehost.config import Config
from edgehost.delivery import Delivery
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

_log = logging.getLogger("edgehost.deployment")


class Surroundings(Protocol):
    """What a deployment needs of its agent."""

    config: Config
    board: Profile
    standalone: bool
    nursery: Nursery

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
        self.submit: Callable[[Event], asyncio.Future[Response]]
        self.state: TriggerState = "starting"
        self.message = ""
        self.started = False
        """Its trigger's `start` has returned; what went wrong since is a state that mends itself."""
        self.counts: Counter[str] = Counter()
        self._spec = spec
        self._replies: bool = plugin.load("trigger", spec.kind).replies
        self._batcher: Batcher | None = None
        self._delivery: Delivery | None = None

    def lead_to(self, version: Version) -> None:
        """Send every event from now on to `version`, those that wait for a batch or for another try included."""
        submit: Callable[[Any], asyncio.Future[Any]] = version.function.submit
        if self._spec.batch is not None:
            self._batcher = self._batcher or Batcher(self._spec.batch, submit)
            self._batcher.deliver = submit
            submit = self._batcher.submit
        if not self._replies:
            target = version.target(submit)
            self._delivery = self._delivery or Delivery(target, self.log)
            self._delivery.target = target
            submit = self._delivery.submit
        self.submit = submit

    def hurry(self) -> None:
        """The trigger stops: no event waits any longer for a batch to fill or for a delay between two tries."""
        if self._batcher is not None:
            self._batcher.flush()
        if self._delivery is not None:
            self._delivery.hurry()

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
