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
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from edgehost import plugin
from edgehost.batch import Batcher
from edgehost.config import Config
from edgehost.control.protocol import FunctionStatus, TriggerStatus
from edgehost.delivery import Delivery, Route, Target
from edgehost.engine.function import Function
from edgehost.engine.nursery import Nursery, breed_of
from edgehost.engine.spec import WorkerSpec
from edgehost.errors import EdgehostError, StartError, TriggerError
from edgehost.event import Event, Origin, Response, failure
from edgehost.log import BoundLogger
from edgehost.manifest.model import Manifest, OutputSpec, TriggerSpec
from edgehost.mqtt import Session

T = TypeVar("T")
TriggerState = Literal["starting", "running", "degraded", "failed", "stopped"]

_log = logging.getLogger("edgehost.deployment")


class Surroundings(Protocol):
    """What a deployment needs of its agent."""

    config: Config
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
        self.withdraw = withdraw
        self.submit: Callable[[Event], asyncio.Future[Response]]
        self.state: TriggerState = "starting"
        self.message = ""
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
        self.call = around.deliver


class Version:
    """One version of the function: its workers, its outputs, and what its context may ask of the agent."""

    def __init__(self, manifest: Manifest, around: Surroundings) -> None:
        self.manifest = manifest
        self._around = around
        self.routes = [
            Route(spec, plugin.load("output", spec.kind)(spec.settings, OutputHost(manifest, spec, around)))
            for spec in manifest.outputs
        ]
        self.function = Function(
            worker_spec(manifest),
            manifest.workers,
            manifest.queue,
            manifest.start_timeout_s,
            around.nursery,
            breed_of(manifest),
            self,
        )
        self._publishing: set[asyncio.Task[None]] = set()
        self._started: list[plugin.Output] = []

    async def start(self) -> None:
        """Outputs first, then workers. Raises StartError, or whatever an output raises."""
        for route in self.routes:
            await route.output.start()
            self._started.append(route.output)
        await self.function.start()

    def target(self, submit: Callable[[Any], asyncio.Future[Any]]) -> Target:
        """Where a delivery leads that hands its events to `submit`."""
        return Target(submit, self.manifest.retry, self.routes, self.function.counters.retry)

    async def end(self, successor: Version | None = None) -> None:
        """Drain by the manifest's policy, then end workers and outputs."""
        manifest = self.manifest
        # A version that never came up would drain until its time-out.
        policy = manifest.drain if self.function.pool.came_up.is_set() else "handover"
        await self.function.drain(policy, manifest.drain_timeout_s, successor.function if successor else None)
        await self.function.close()
        started, self._started = self._started, []
        await _stop_all([output.stop for output in started], self.function.log_adapter)

    def call(self, name: str, event: Event) -> asyncio.Future[Response]:
        return self._around.call(name, event)

    def publish(self, output: str, event: Event) -> asyncio.Future[None]:
        """`context.publish`: what a handler sends on its way, whatever its answer will be."""
        route = next((route for route in self.routes if route.spec.name == output), None)
        if route is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(
                TriggerError(f"{output!r} is not an output of {self.manifest.name!r}; declare [outputs.{output}]")
            )
            return future
        task = asyncio.get_running_loop().create_task(_sent(route.output, event))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        return task


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
            self.trouble(_words(error))
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
            host = TriggerHost(version.manifest, spec, self._around, self._withdraw)
            host.lead_to(version)
            trigger: plugin.Trigger | None = None
            try:
                trigger = plugin.load("trigger", spec.kind)(spec.settings, host)
                assert trigger is not None
                await trigger.start()
                if host.state == "starting":
                    host.report("running")
            except Exception as error:
                host.report("failed", _words(error))
            finally:
                self._triggers.append((trigger, host, spec))

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
            raise TriggerError(_words(error)) from error
        if self._bringing_up is not None:
            self._bringing_up.cancel()
            self._bringing_up = None
        self._trouble = ""
        self._version = new
        if old is not None and old.manifest.triggers == manifest.triggers and self._triggers:
            for _, host, _ in self._triggers:
                host.lead_to(new)
        else:
            await self._stop_triggers()
            await self._start_triggers(new)
        await self._end_version(old, new)
        self._log.info("version %s is in place", manifest.version)

    async def _stop_triggers(self) -> None:
        triggers, self._triggers = self._triggers, []
        stops = [asyncio.create_task(_stop_all([trigger.stop], host.log)) for trigger, host, _ in triggers if trigger is not None]
        await asyncio.sleep(0)  # each has begun to stop, so what it hands over is all there will be
        for _, host, _ in triggers:
            host.hurry()
        await asyncio.gather(*stops)
        for _, host, _ in triggers:
            host.report("stopped")

    async def stop(self) -> None:
        """Triggers first, so that nothing new comes; then the function by its drain policy."""
        if self._bringing_up is not None:
            self._bringing_up.cancel()
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
        target = version.target(version.function.submit)
        self._chained = self._chained or Delivery(target, self._log)
        self._chained.target = target
        return self._chained.submit(event)

    def _not_ready(self, function: Function | None) -> asyncio.Future[Response]:
        reason = self._trouble or (function.last_error if function is not None else "it starts")
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        future.set_result(failure("not_ready", f"function {self.name!r} is not running: {reason}"))
        return future

    def status(self) -> FunctionStatus:
        """How it is, for people and machines."""
        triggers = [TriggerStatus(spec.name, spec.kind, host.state, host.message) for _, host, spec in self._triggers]
        version = self._version
        if version is None:
            return FunctionStatus(self.name, "failed", last_error=self._trouble, since=self._since)
        function, manifest = version.function, version.manifest
        state = "failed" if self._trouble else function.pool.state
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
        )


async def _stop_all(stops: list[Callable[[], Awaitable[None]]], log: logging.LoggerAdapter[logging.Logger]) -> None:
    """Stop them all: a plugin that cannot be stopped keeps no other from ending."""
    for result in await asyncio.gather(*(stop() for stop in stops), return_exceptions=True):
        if isinstance(result, Exception):
            log.error("while stopping: %s", _words(result), exc_info=result)


def _words(error: Exception) -> str:
    """An error of edgehost speaks for itself; what else a plugin raises is named."""
    return str(error) if isinstance(error, EdgehostError) else f"{type(error).__name__}: {error}"


async def _sent(output: plugin.Output, event: Event) -> None:
    """Send what a handler published, and wait until it is safe."""
    wait = output.send(event, Response(200, event.content_type, event.headers, event.body))
    if wait is not None:
        await wait


def worker_spec(manifest: Manifest) -> WorkerSpec:
    """What the workers of this manifest are told."""
    limits = manifest.limits
    return WorkerSpec(
        function=manifest.name,
        version=manifest.version,
        description=manifest.description,
        runtime=manifest.runtime,
        handler=manifest.handler,
        folder=str(manifest.folder),
        worker_id=0,
        concurrency=manifest.concurrency,
        timeout_s=manifest.timeout_s,
        body=manifest.body,
        on_loop=manifest.on_loop,
        debug=manifest.debug,
        log_level=manifest.log_level,
        env=manifest.env,
        triggers=tuple(Origin(trigger.kind, trigger.name) for trigger in manifest.triggers),
        outputs=tuple(output.name for output in manifest.outputs),
        memory_bytes=limits.memory_bytes,
        open_files=limits.open_files,
        processes=limits.processes,
        cpu_s=limits.cpu_s,
        niceness=limits.niceness,
        settings=msgspec.Raw(msgspec.msgpack.encode(manifest.options)),
    )
