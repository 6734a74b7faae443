"""Version: one version of a function with its workers and outputs, from start to end. Must not know triggers or successors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from edgehost import plugin, secrets
from edgehost.delivery import Route, Target
from edgehost.engine.function import Function
from edgehost.engine.nursery import breed_of
from edgehost.engine.spec import worker_spec
from edgehost.errors import EdgehostError, ManifestError, StartError, TriggerError
from edgehost.event import Event, Response
from edgehost.hosts import OutputHost, Surroundings
from edgehost.manifest.model import Manifest


class Version:
    """One version of the function: its workers, its outputs, and what its context may ask of the agent."""

    def __init__(self, manifest: Manifest, around: Surroundings) -> None:
        secrets.check_granted(manifest.name, manifest.secrets, around.config.secrets)
        self.manifest = manifest
        self._around = around
        self.routes = [
            Route(spec, plugin.load("output", spec.kind)(spec.settings, OutputHost(manifest, spec, around)))
            for spec in manifest.outputs
        ]
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

    async def start(self) -> None:
        """Outputs first, then workers. Raises StartError, or whatever an output raises."""
        for route in self.routes:
            await route.output.start()
            self._started.append(route.output)
        await self.function.start()

    def _secrets(self) -> bytes:
        """For a worker that starts now: what a reload has revoked since it does not get."""
        granted = self._around.config.secrets
        try:
            secrets.check_granted(self.manifest.name, self.manifest.secrets, granted)
        except ManifestError as error:
            raise StartError(str(error)) from None
        return secrets.packed(self.manifest.secrets, granted)

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
        await stop_all([output.stop for output in started], self.function.log_adapter)

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


async def _sent(output: plugin.Output, event: Event) -> None:
    """Send what a handler published, and wait until it is safe."""
    wait = output.send(event, Response(200, event.content_type, event.headers, event.body))
    if wait is not None:
        await wait


async def stop_all(stops: list[Callable[[], Awaitable[None]]], log: logging.LoggerAdapter[logging.Logger]) -> None:
    """Stop them all: a plugin that cannot be stopped keeps no other from ending."""
    for result in await asyncio.gather(*(stop() for stop in stops), return_exceptions=True):
        if isinstance(result, Exception):
            log.error("while stopping: %s", in_words(result), exc_info=result)


def in_words(error: Exception) -> str:
    """An error of edgehost speaks for itself; what else a plugin raises is named."""
    return str(error) if isinstance(error, EdgehostError) else f"{type(error).__name__}: {error}"
