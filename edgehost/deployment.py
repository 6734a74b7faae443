"""Deployment: one function under its name, with its triggers and outputs, through start, upgrade and end.

    state       means
    starting    workers load the function; triggers wait
    running     triggers listen
    failed      the manifest is wrong, or no worker could load the function; the pool goes on trying
    stopped     for ever

An upgrade starts the new version first; one assignment per trigger swaps it in; the old one drains. Must not know how events are
carried to workers, or what a trigger listens to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from edgehost import plugin
from edgehost.backoff import Backoff
from edgehost.control.protocol import FunctionState, FunctionStatus, TriggerStatus
from edgehost.delivery.ending import Ending
from edgehost.delivery.inflow import Inflow
from edgehost.delivery.tries import Delivery
from edgehost.engine import holds, landlock
from edgehost.engine.function import Function
from edgehost.errors import EdgehostError, StartError, StateError, TriggerError
from edgehost.event import Event, Response, failure
from edgehost.hosts import Surroundings, TriggerHost
from edgehost.log import BoundLogger
from edgehost.manifest.model import Manifest, TriggerSpec
from edgehost.service.health import Health
from edgehost.version import Version, in_words, stop_all

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
        self._triggers: list[tuple[plugin.Trigger | None, TriggerHost, TriggerSpec]] = []
        self._trouble = ""
        self._chained: Delivery | None = None
        self._orphans: list[Inflow] = []
        """Events on disk of triggers that the manifest has no more."""
        self._later: asyncio.TimerHandle | None = None
        self._backoff = Backoff(2.0, 60.0)
        self._bringing_up: asyncio.Task[None] | None = None
        self._since = time.time()
        self._last_state = ""

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
            await self._start_triggers(version)

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
        await self._start_triggers(version)

    async def _start_triggers(self, version: Version) -> None:
        for spec in version.manifest.triggers:
            await self._start_trigger(version, spec)
        named = {spec.name for spec in version.manifest.triggers}
        for trigger in self._around.journal.triggers_of(self.name) - named:
            await self._adopt(trigger)

    async def _adopt(self, trigger: str) -> None:
        """Events on disk that no trigger of the manifest bears the name of go on without one."""
        version, around = self._version, self._around
        if version is None:
            return
        queue = await around.journal.queue("event", self.name, trigger)
        deliver = self._unnamed(version).submit
        inflow = Inflow(queue, around.journal, around.allowance, deliver, 16, True, 0.0, _ignore, self._log)
        self._orphans.append(inflow)
        inflow.start()

    async def recover(self, trigger: str) -> None:
        """Events of `trigger` have been put on disk: have them run."""
        for _, host, spec in self._triggers:
            if spec.name == trigger:
                await host.recover()
                return
        await self._adopt(trigger)

    def _unnamed(self, version: Version) -> Delivery:
        """The way of events that no trigger has handed over."""
        target = version.target(version.function.submit, version.function.submit)
        ending = Ending(self.name, self._around.journal, self._around.outbox)
        self._chained = self._chained or Delivery(target, self._log, ending)
        self._chained.target = target
        return self._chained

    async def _start_trigger(self, version: Version, spec: TriggerSpec) -> None:
        host = TriggerHost(version.manifest, spec, self._around, self._withdraw)
        trigger: plugin.Trigger | None = None
        try:
            await host.open(version)
            trigger = plugin.load("trigger", spec.kind)(spec.settings, host)
            assert trigger is not None
            await trigger.start()
            host.started = True
            if host.state == "starting":
                host.report("running")
        except Exception as error:
            host.report("failed", in_words(error))
            if isinstance(error, StateError):
                self._try_later()
        finally:
            self._triggers.append((trigger, host, spec))

    def _try_later(self) -> None:
        """A disk that is full, or another agent in the way, mends itself some time."""
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(self._backoff.next(), self._try_now)

    def _try_now(self) -> None:
        self._later = None
        self._trying = asyncio.create_task(self.try_again())

    async def try_again(self) -> None:
        """Start the triggers that could not be started: the port's name they lacked, or the function in their way, may have
        changed with the configuration.
        """
        version, order = self._version, [host.origin.name for _, host, _ in self._triggers]
        idle = [each for each in self._triggers if not each[1].started]
        if version is None or not idle:
            return
        self._triggers = [each for each in self._triggers if each[1].started]
        await asyncio.gather(*(stop_all([trigger.stop], host.log) for trigger, host, _ in idle if trigger is not None))
        for _, _, spec in idle:
            await self._start_trigger(version, spec)
        self._triggers.sort(key=lambda each: order.index(each[1].origin.name))

    def _withdraw(self, future: asyncio.Future[Response]) -> bool:
        return self._version is not None and self._version.function.withdraw(future)

    async def replace(self, manifest: Manifest) -> None:
        """Upgrade: the new version is started first, then swapped in. Raises EdgehostError and keeps the old one if it
        cannot start.
        """
        old, new = self._version, None
        try:
            new = self._made(manifest)
            await new.start()
        except (Exception, asyncio.CancelledError) as error:
            await self._end_version(new, None)
            if isinstance(error, (EdgehostError, asyncio.CancelledError)):
                raise
            raise TriggerError(in_words(error)) from error
        if self._bringing_up is not None:
            self._bringing_up.cancel()
            self._bringing_up = None
        self._trouble = ""
        self._version = new
        if old is not None and old.manifest.triggers == manifest.triggers and self._triggers:
            for _, host, _ in self._triggers:
                host.lead_to(new)
            if self._chained is not None:
                self._unnamed(new)
        else:
            await self._stop_triggers()
            await self._start_triggers(new)
        await self._end_version(old, new)
        self._log.info("version %s is in place", manifest.version)

    async def _stop_triggers(self) -> None:
        triggers, self._triggers = self._triggers, []
        stops = [asyncio.create_task(stop_all([trigger.stop], host.log)) for trigger, host, _ in triggers if trigger is not None]
        await asyncio.sleep(0)  # each has begun to stop, so what it hands over is all there will be
        for _, host, _ in triggers:
            host.hurry()
        orphans, self._orphans = self._orphans, []
        for inflow in orphans:
            inflow.rest()
        await asyncio.gather(*stops, *(host.drained() for _, host, _ in triggers), *(inflow.drained() for inflow in orphans))
        for _, host, _ in triggers:
            host.report("stopped")

    async def stop(self) -> None:
        """Triggers first, so that nothing new comes; then the function by its drain policy."""
        if self._bringing_up is not None:
            self._bringing_up.cancel()
        if self._later is not None:
            self._later.cancel()
        await self._stop_triggers()
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
        return self._unnamed(version).submit(event)

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
        away = (host for _, host, _ in self._triggers if host.state in ("degraded", "failed"))
        if not reason and (host := next(away, None)) is not None:
            reason = f"{host.origin.name} {host.state}: {host.message}"
        overdue_s = max((version.function.overdue_s for version in self._versions), default=0.0)
        return Health(self.name, state, reason, overdue_s)

    def status(self) -> FunctionStatus:
        """How it is, for people and machines."""
        triggers = [
            TriggerStatus(spec.name, spec.kind, host.state, host.message, dict(host.counts)) for _, host, spec in self._triggers
        ]
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
            triggers=triggers,
            last_error=self._trouble or function.last_error,
            since=self._since,
            warnings=list(manifest.warnings),
            limits=holds.limits(manifest.limits, self._around.nursery.cells.controllers),
            sandbox=holds.sandbox(manifest.sandbox, landlock.version()),
        )


def _ignore(_reason: str) -> None:
    """Nobody holds such events back: they are on disk already."""
