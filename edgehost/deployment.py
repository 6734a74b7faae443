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
from collections.abc import Callable
from pathlib import Path

from edgehost import plugin
from edgehost.backoff import Backoff
from edgehost.control.protocol import FunctionState, FunctionStatus, TriggerStatus
from edgehost.delivery.ending import Ending
from edgehost.delivery.inflow import Inflow, Inlet
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

_ORPHANS_AT_ONCE = 16
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
        self._orphans: dict[str, tuple[Inflow, Delivery]] = {}
        """Events on disk of triggers that the manifest has no more."""
        self._recovered: set[str] = set()
        """Triggers that just start, and of which events were put on disk meanwhile."""
        self._later: asyncio.TimerHandle | None = None
        self._backoff = Backoff(2.0, 60.0)
        self._bringing_up: asyncio.Task[None] | None = None
        self._trying: asyncio.Task[None] | None = None
        self._one_change = asyncio.Lock()
        """Of the triggers: what a change of files, a retry and an upgrade do to them follows one after the other."""
        self._stopping = False
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
            async with self._one_change:
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
        async with self._one_change:
            await self._start_triggers(version)

    async def _start_triggers(self, version: Version) -> None:
        for spec in version.manifest.triggers:
            await self._start_trigger(version, spec)
        await self._adopt_all(version)

    async def _adopt_all(self, version: Version) -> None:
        """What an earlier manifest, or an earlier run, has left of triggers that are no more."""
        journal = self._around.journal
        if journal.state == "failed":  # what it holds is not known
            try:
                await journal.open()
            except StateError:
                self._try_later()
                return
        for trigger in journal.triggers_of(self.name) - {spec.name for spec in version.manifest.triggers} - self._orphans.keys():
            await self._adopt(trigger)

    async def _adopt(self, trigger: str) -> None:
        """Events on disk that no trigger of the manifest bears the name of go on without one."""
        around = self._around
        queue = await around.journal.queue("event", self.name, trigger)
        version = self._version
        if trigger in self._orphans:
            self._orphans[trigger][0].look()
        elif version is not None:
            delivery = self._led(version)
            inlet = Inlet(queue, _ORPHANS_AT_ONCE, True, 0.0, _ignore, self._log)
            inflow = Inflow(inlet, around.journal, around.allowance, delivery.submit)
            inflow.keep_to(version.manifest.queue)
            self._orphans[trigger] = inflow, delivery
            inflow.start()

    async def recover(self, trigger: str) -> None:
        """Events of `trigger` have been put on disk: have them run. Without a version they wait for one."""
        host = next((host for _, host, spec in self._triggers if spec.name == trigger), None)
        if host is not None:
            await host.recover()
        elif self._version is not None and trigger in {spec.name for spec in self._version.manifest.triggers}:
            self._recovered.add(trigger)
        else:
            await self._adopt(trigger)

    def key_of(self, trigger: str) -> Callable[[Event], str | None] | None:
        """What the trigger's `dedupe` knows an event by; None without it."""
        return next((host.way.key_of() for _, host, spec in self._triggers if spec.name == trigger), None)

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

    def _unnamed(self, version: Version) -> Delivery:
        """The way of events that no trigger has handed over."""
        self._chained = self._led(version, self._chained)
        return self._chained

    def _led(self, version: Version, delivery: Delivery | None = None) -> Delivery:
        """A delivery that leads to `version`: a new one, or this one from now on."""
        target = version.target(version.function.submit, version.function.submit)
        ending = Ending(self.name, self._around.journal, self._around.outbox)
        delivery = delivery or Delivery(target, self._log, ending)
        delivery.target = target
        return delivery

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
            if spec.name in self._recovered:
                self._recovered.discard(spec.name)
                await host.recover()

    def _try_later(self) -> None:
        """A disk that is full, or another agent in the way, mends itself some time."""
        if self._later is None and not self._stopping:
            self._later = asyncio.get_running_loop().call_later(self._backoff.next(), self._try_now)

    def _try_now(self) -> None:
        self._later = None
        self._trying = asyncio.create_task(self.try_again())

    async def try_again(self) -> None:
        """Start the triggers that could not be started: the port's name they lacked, or the function in their way, may have
        changed with the configuration.
        """
        async with self._one_change:
            version, order = self._version, [host.origin.name for _, host, _ in self._triggers]
            idle = [each for each in self._triggers if not each[1].started]
            if version is None:
                return
            # Until they are replaced they show why they do not run.
            self._triggers = [each if each[1].started else (None, *each[1:]) for each in self._triggers]
            await asyncio.gather(*(stop_all([trigger.stop], host.log) for trigger, host, _ in idle if trigger is not None))
            for _, host, _ in idle:
                host.way.hurry()  # what lies on disk may have begun without its trigger
            with self._around.outbox.hurried(self.name):
                await asyncio.gather(*(host.way.drained() for _, host, _ in idle))
            for _, before, spec in idle:
                await self._start_trigger(version, spec)
                self._triggers = [each for each in self._triggers if each[1] is not before]
            self._triggers.sort(key=lambda each: order.index(each[1].origin.name))
            if version.function.pool.came_up.is_set():
                await self._adopt_all(version)

    def _withdraw(self, future: asyncio.Future[Response]) -> bool:
        return self._version is not None and self._version.function.withdraw(future)

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
        await _broken_off(self._bringing_up)
        self._bringing_up, self._trouble, self._version = None, "", new
        if old is not None and old.manifest.triggers == manifest.triggers and self._triggers:
            for _, host, _ in self._triggers:
                host.lead_to(new)
            for delivery in (self._chained, *(delivery for _, delivery in self._orphans.values())):
                if delivery is not None:
                    self._led(new, delivery)
        else:
            async with self._one_change:
                await self._stop_triggers()
                await self._start_triggers(new)
        await self._end_version(old, new)
        self._log.info("version %s is in place", manifest.version)

    async def _stop_triggers(self) -> None:
        triggers, self._triggers = self._triggers, []
        stops = [asyncio.create_task(stop_all([trigger.stop], host.log)) for trigger, host, _ in triggers if trigger is not None]
        await asyncio.sleep(0)  # each has begun to stop, so what it hands over is all there will be
        for _, host, _ in triggers:
            host.way.hurry()
        orphans, self._orphans = self._orphans, {}
        for inflow, delivery in orphans.values():
            inflow.rest()
            delivery.hurry()
        drains = [*(host.way.drained() for _, host, _ in triggers), *(inflow.drained() for inflow, _ in orphans.values())]
        with self._around.outbox.hurried(self.name):
            await asyncio.gather(*stops, *drains)
        for _, host, _ in triggers:
            host.report("stopped")

    async def stop(self) -> None:
        """Triggers first, so that nothing new comes; then the function by its drain policy."""
        self._stopping = True
        await _broken_off(self._bringing_up)
        if self._later is not None:
            self._later.cancel()
        await _broken_off(self._trying)
        async with self._one_change:
            await self._stop_triggers()
        if self._chained is not None:
            self._chained.hurry()
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
        shown = ((host.origin.name, *host.shown) for _, host, _ in self._triggers)
        away = (f"{name} {state}: {message}" for name, state, message in shown if state in ("degraded", "failed"))
        reason = reason or next(away, "")
        overdue_s = max((version.function.overdue_s for version in self._versions), default=0.0)
        return Health(self.name, state, reason, overdue_s)

    def status(self) -> FunctionStatus:
        """How it is, for people and machines."""
        triggers = [
            TriggerStatus(spec.name, spec.kind, *host.shown, dict(host.counts)) for _, host, spec in self._triggers
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


async def _broken_off(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait for its end: what it has begun is then all there is."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait((task,))


def _ignore(_reason: str) -> None:
    """Nobody holds such events back: they are on disk already."""
