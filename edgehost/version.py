"""Version: one version of a function with its workers and outputs, from start to end. Must not know triggers or successors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from edgehost import plugin, secrets
from edgehost.backoff import Backoff
from edgehost.delivery.lane import Lane
from edgehost.delivery.route import Route
from edgehost.delivery.tries import Hold, Target
from edgehost.engine.function import Function
from edgehost.engine.nursery import breed_of
from edgehost.engine.spec import worker_spec
from edgehost.errors import EdgehostError, ManifestError, StartError, TriggerError
from edgehost.event import Event, Response
from edgehost.hosts import OutputHost, Surroundings
from edgehost.manifest.model import Manifest, OutputSpec


class Version:
    """One version of the function: its workers, its outputs, and what its context may ask of the agent."""

    def __init__(self, manifest: Manifest, around: Surroundings) -> None:
        secrets.check_granted(manifest.name, manifest.secrets, around.config.secrets)
        self.manifest = manifest
        self._around = around
        self.routes = [self._route(spec) for spec in manifest.outputs]
        self.function = Function(
            worker_spec(manifest, around.board.providers),
            manifest.workers,
            manifest.queue,
            manifest.start_timeout_s,
            around.nursery,
            breed_of(manifest),
            self,
            self._secrets,
        )
        self._publishing: set[asyncio.Task[None]] = set()
        self._started: list[plugin.Output] = []
        self._opening: set[asyncio.Task[None]] = set()

    def _route(self, spec: OutputSpec) -> Route:
        output = plugin.load("output", spec.kind)(spec.settings, OutputHost(self.manifest, spec, self._around))
        forwards = hasattr(output, "pack") and spec.store.enabled
        return Route(spec, output, self._around.outbox.lane(self.manifest.name, spec.name) if forwards else None)

    async def start(self, succeeds: bool = False) -> None:
        """Outputs first, then workers. Raises StartError, or whatever an output raises.

        What waits on disk leaves by this version's outputs as soon as they are there; if it `succeeds` another one, once its
        workers are up: else one that cannot start would take the other's way out with it.
        """
        for route in self.routes:
            await route.output.start()
            self._started.append(route.output)
            if route.lane is not None:
                await self._open(route.lane)
        if not succeeds:
            self._attach()
        await self.function.start()
        if succeeds:
            self._attach()

    def _attach(self) -> None:
        for route in self.routes:
            if route.lane is not None:
                route.lane.attach(cast(plugin.Forwarding, route.output), route.spec.store)

    async def _open(self, lane: Lane) -> None:
        """Without a journal the output works all the same; it gets its place on disk as soon as there is one."""
        try:
            await lane.open()
        except EdgehostError as error:
            self.function.log_adapter.warning("[outputs.%s] has no place on disk for now: %s", lane.name, error)
            task = asyncio.get_running_loop().create_task(_open_late(lane))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _secrets(self) -> bytes:
        """For a worker that starts now: what a reload has revoked since it does not get."""
        granted = self._around.config.secrets
        try:
            secrets.check_granted(self.manifest.name, self.manifest.secrets, granted)
        except ManifestError as error:
            raise StartError(str(error)) from None
        return secrets.packed(self.manifest.secrets, granted)

    def target(self, submit: Callable[[Any], asyncio.Future[Any]], hold: Hold | None) -> Target:
        """Where a delivery leads that hands its events to `submit`, or to `hold`; see Target."""
        return Target(submit, self.manifest.retry, self.routes, self.function.counters.retry, hold)

    async def end(self, successor: Version | None = None) -> None:
        """Drain by the manifest's policy, then end workers and outputs."""
        manifest = self.manifest
        # A version that never came up would drain until its time-out.
        policy = manifest.drain if self.function.pool.came_up.is_set() else "handover"
        await self.function.drain(policy, manifest.drain_timeout_s, successor.function if successor else None)
        await self.function.close()
        for opening in self._opening:
            opening.cancel()
        for route in self.routes:
            if route.lane is not None:
                route.lane.detach(cast(plugin.Forwarding, route.output))
        started, self._started = self._started, []
        await stop_all([output.stop for output in started], self.function.log_adapter)

    def call(self, name: str, event: Event) -> asyncio.Future[Response]:
        return self._around.call(name, event)

    def stores(self, output: str) -> bool:
        """See engine.function.Services."""
        return any(route.spec.name == output and route.lane is not None and route.lane.opened for route in self.routes)

    def publish(self, output: str, event: Event) -> asyncio.Future[None]:
        """`context.publish`: what a handler sends on its way, whatever its answer will be."""
        route = next((route for route in self.routes if route.spec.name == output), None)
        if route is None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(
                TriggerError(f"{output!r} is not an output of {self.manifest.name!r}; declare [outputs.{output}]")
            )
            return future
        task = asyncio.get_running_loop().create_task(_sent(route, event))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        return task


async def _open_late(lane: Lane) -> None:
    backoff = Backoff(2.0, 60.0)
    while not lane.opened:
        await asyncio.sleep(backoff.next())
        with suppress(EdgehostError):
            await lane.open()


async def _sent(route: Route, event: Event) -> None:
    """Send what a handler published, and wait until it is safe."""
    wait = route.send(event, Response(200, event.content_type, event.headers, event.body))
    if wait is not None:
        await wait


async def stop_all(stops: list[Callable[[], Awaitable[None]]], log: logging.LoggerAdapter[logging.Logger]) -> None:
    """Stop them all: a plugin that cannot be stopped keeps no other from ending."""
    for result in await asyncio.gather(*(stop() for stop in stops), return_exceptions=True):
        if isinstance(result, Exception):
            log.error("while stopping: %s", in_words(result), exc_info=result)


async def broken_off(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait for its end: what it has begun is then all there is."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait((task,))


def in_words(error: Exception) -> str:
    """An error of edgehost speaks for itself; what else a plugin raises is named."""
    return str(error) if isinstance(error, EdgehostError) else f"{type(error).__name__}: {error}"
