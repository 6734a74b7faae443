"""Deployment: one function under its name, with its triggers and outputs, through start, upgrade and end.

    state       means
    starting    workers load the function; triggers wait
    running     triggers listen
    failed      the manifest is wrong, or no worker could load the function; the pool goes on trying
    stopped     for ever

An upgrade starts the new version first; its ingress leads to it from then on; the old one drains. Must not know
how events come in, or how they are carried to workers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from edgehost.control.protocol import FunctionState, FunctionStatus
from edgehost.engine import holds, landlock
from edgehost.engine.function import Function
from edgehost.errors import EdgehostError, StartError, TriggerError
from edgehost.event import Event, Response, failure
from edgehost.hosts import Surroundings
from edgehost.ingress import Ingress
from edgehost.log import BoundLogger
from edgehost.manifest.model import Manifest
from edgehost.service.health import Health
from edgehost.version import Version, broken_off, in_words

_log = logging.getLogger("edgehost.deployment")


class Deployment:
    """One name. `start` brings it up and returns; a function that cannot be loaded is a state, not an exception."""

    def __init__(self, name: str, folder: Path, around: Surroundings) -> None:
        self.name = name
        self.folder = folder
        self._around = around
        self._log = BoundLogger(_log, function=name)
        self._version: Version | None = None
        self._versions: list[Version] = []
        """Every version with workers: the one in place, and one that starts or drains beside it."""
        self._trouble = ""
        self._bringing_up: asyncio.Task[None] | None = None
        self._since = time.time()
        self._last_state = ""
        self.ingress = Ingress(name, around, self._log, lambda: self._version)

    async def start(self, manifest: Manifest) -> None:
        """Start the first version. If it cannot be loaded now, triggers start as soon as the pool has loaded it."""
        for warning in manifest.warnings:
            self._log.warning("%s", warning)
        try:
            self._version = version = self._made(manifest)
            await version.start()
        except StartError as error:
            self._log.error("cannot start: %s", error)
            self._bringing_up = asyncio.create_task(self._come_up_late(version))
        except Exception as error:
            self.trouble(in_words(error))
            await self._end_version(self._version, None)
            self._version = None
        else:
            await self.ingress.start(version)

    def _made(self, manifest: Manifest) -> Version:
        version = Version(manifest, self._around)
        self._versions.append(version)
        return version

    async def _end_version(self, version: Version | None, successor: Version | None) -> None:
        if version is not None:
            await version.end(successor)
            if version in self._versions:  # a stop in the middle of an upgrade ends it too
                self._versions.remove(version)

    def trouble(self, message: str) -> None:
        """Something a person must mend keeps this function from running; shown until a new version starts."""
        self._trouble = message
        self._log.error("%s", message)

    async def _come_up_late(self, version: Version) -> None:
        await version.function.pool.came_up.wait()
        self._log.info("loaded at last; its triggers start")
        await self.ingress.start(version)

    def refusal(self, output: str) -> str:
        """Why nothing can be put back into this output's outbox; "" if it can."""
        version = self._version
        if version is None:
            return f"function {self.name!r} does not run; mend it first"
        route = next((route for route in version.routes if route.spec.name == output), None)
        if route is None:
            return f"function {self.name!r} has no output {output!r} any more"
        if route.lane is None or not route.lane.opened:
            return f"output {output!r} of function {self.name!r} keeps nothing on disk"
        return ""

    async def replace(self, manifest: Manifest) -> None:
        """Upgrade: the new version is started first, then swapped in. Raises EdgehostError and keeps the old one if it
        cannot start.
        """
        old, new = self._version, None
        try:
            new = self._made(manifest)
            await new.start(succeeds=old is not None)
        except (Exception, asyncio.CancelledError) as error:
            await self._end_version(new, None)
            if isinstance(error, (EdgehostError, asyncio.CancelledError)):
                raise
            raise TriggerError(in_words(error)) from error
        await broken_off(self._bringing_up)
        self._bringing_up, self._trouble, self._version = None, "", new
        await self.ingress.lead_to(new, old)
        await self._end_version(old, new)
        self._log.info("version %s is in place", manifest.version)

    async def stop(self) -> None:
        """Triggers first, so that nothing new comes; then the function by its drain policy."""
        await broken_off(self._bringing_up)
        await self.ingress.stop()
        with self._around.outbox.hurried(self.name):
            await asyncio.gather(*(self._end_version(version, None) for version in list(self._versions)))

    def submit(self, event: Event) -> asyncio.Future[Response]:
        """A direct call (invoke, call_function): the caller waits and decides itself what to do with a failure."""
        function = self._version.function if self._version is not None else None
        if function is not None and function.pool.state != "failed":
            return function.submit(event)
        return self._not_ready(function)

    def deliver(self, event: Event) -> asyncio.Future[Response]:
        """An event from another function's output: nobody waits for it, so retries and outputs apply as for a trigger's."""
        version = self._version
        if version is None or version.function.pool.state == "failed":
            return self._not_ready(version.function if version is not None else None)
        return self.ingress.deliver(event, version)

    def _not_ready(self, function: Function | None) -> asyncio.Future[Response]:
        reason = self._trouble or (function.last_error if function is not None else "it starts")
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        future.set_result(failure("not_ready", f"function {self.name!r} is not running: {reason}"))
        return future

    @property
    def state(self) -> FunctionState:
        """How it is, in a word."""
        if self._trouble:
            return "failed"
        return self._version.function.pool.state if self._version is not None else "starting"

    @property
    def troubled(self) -> bool:
        """Something a person must mend keeps it from running."""
        return bool(self._trouble)

    @property
    def runs(self) -> bool:
        """A version of it is in place, whether or not its workers can load it."""
        return self._version is not None

    def health(self) -> Health:
        """How it is, for who watches over the agent."""
        state, function = self.state, self._version.function if self._version is not None else None
        reason = self._trouble
        if not reason and function is not None and state != "ready":
            reason = function.last_error
        away = (each for each in self.ingress.statuses if each.state in ("degraded", "failed"))
        reason = reason or next((f"{each.name} {each.state}: {each.message}" for each in away), "")
        overdue_s = max((version.function.overdue_s for version in self._versions), default=0.0)
        return Health(self.name, state, reason, overdue_s)

    def status(self) -> FunctionStatus:
        """How it is, for people and machines."""
        version = self._version
        if version is None:
            return FunctionStatus(self.name, self.state, last_error=self._trouble, since=self._since)
        function, manifest, state = version.function, version.manifest, self.state
        if state != self._last_state:
            self._last_state, self._since = state, time.time()
        counters = function.counters
        return FunctionStatus(
            name=self.name,
            state=state,
            version=manifest.version,
            runtime=manifest.runtime,
            workers_ready=function.pool.ready,
            workers_wanted=manifest.workers,
            queued=function.queued,
            in_flight=function.in_flight,
            handled=counters.handled,
            failed=counters.failed,
            dropped=counters.dropped,
            p50_ms=counters.quantile_ms(0.5) if counters.latencies else None,
            p99_ms=counters.quantile_ms(0.99) if counters.latencies else None,
            triggers=self.ingress.statuses,
            last_error=self._trouble or function.last_error,
            since=self._since,
            warnings=list(manifest.warnings),
            limits=holds.limits(manifest.limits, self._around.nursery.cells.controllers),
            sandbox=holds.sandbox(manifest.sandbox, landlock.version()),
        )
