"""Delivery: what happens to one event between its trigger and its acknowledgement: tries, and where the answer goes.

Only for events nobody waits for. Retries live here in memory; must not know how a function runs or what an output is made of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from edgehost.backoff import Backoff
from edgehost.engine.call import whole
from edgehost.event import Event, Response, failure
from edgehost.manifest.model import OutputSpec, Retry
from edgehost.plugin import Output

Submit = Callable[[Event], "asyncio.Future[Response]"]

FINAL = frozenset({"stopped", "not_ready", "cancelled", "dropped"})
"""Failures that another try would not change: the agent is going, or the queue's policy has spoken."""


@dataclass(frozen=True)
class Route:
    """One output and the answers it wants."""

    spec: OutputSpec
    output: Output

    def wants(self, trigger: str, failed: bool) -> bool:
        """Whether the answer to an event of `trigger` goes this way."""
        wanted = {"success": not failed, "failure": failed, "always": True, "never": False}[self.spec.on]
        return wanted and (not self.spec.triggers or trigger in self.spec.triggers)


@dataclass(frozen=True)
class Target:
    """What a version of the function gives a delivery: its way in, its retry policy, its outputs, its count of retries."""

    submit: Submit
    retry: Retry
    routes: Sequence[Route]
    retried: Callable[[], None]


class Delivery:
    """One trigger's way through the function: `submit` resolves when the answer, and every output it goes to, is safe.

    It outlives the version it leads to: assign `target` at an upgrade, and an event that waits for its next try goes there.
    """

    def __init__(self, target: Target, log: logging.LoggerAdapter[logging.Logger]) -> None:
        self.target = target
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._sending: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.TimerHandle, Callable[[], None]] = {}
        self._hurried = False

    def hurry(self) -> None:
        """The function is about to end: what waits for its next try is tried now, for the last time."""
        self._hurried = True
        for timer, try_now in list(self._waiting.items()):
            timer.cancel()
            try_now()
        self._waiting.clear()

    def submit(self, event: Event) -> asyncio.Future[Response]:
        """As Function.submit, for an event nobody waits for."""
        answer: asyncio.Future[Response] = self._loop.create_future()
        self._try(event, answer, None)
        return answer

    def _try(self, event: Event, answer: asyncio.Future[Response], backoff: Backoff | None) -> None:
        target = self.target
        target.submit(event).add_done_callback(partial(self._answered, event, answer, backoff, target))

    def _answered(
        self,
        event: Event,
        answer: asyncio.Future[Response],
        backoff: Backoff | None,
        target: Target,
        done: asyncio.Future[Response],
    ) -> None:
        response = done.result()
        if response.code:
            if self._again(event, answer, backoff, target.retry, response):
                return
            self._tell(event, f"failed for good ({response.code}): {response.body.decode('utf-8', 'replace')}")
        routes = [route for route in target.routes if route.wants(event.trigger.name, response.failed)]
        try:
            waits = self._send(event, response, routes) if response.chunks is None else self._send_stream(event, response, routes)
        except Exception as error:  # an output is a plugin: whatever it raises is this event's trouble, not the agent's
            response, waits = self._not_sent(event, error), None
        if waits is None:
            _settle(answer, response)
        else:
            task = self._loop.create_task(self._when_sent(event, answer, response, waits))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    def _again(
        self, event: Event, answer: asyncio.Future[Response], backoff: Backoff | None, retry: Retry, response: Response
    ) -> bool:
        """Try a failed event once more, later, if the policy says so."""
        backoff = backoff or Backoff(retry.delay_s, retry.max_delay_s)
        if self._hurried or response.code in FINAL or backoff.failures + 1 >= retry.attempts:
            return False
        delay_s = backoff.next()
        self.target.retried()
        self._log.warning("event %s failed (%s), try %d in %.1f s", event.id, response.code, backoff.failures + 1, delay_s)
        try_now = partial(self._try, event, answer, backoff)

        def due() -> None:
            del self._waiting[timer]
            try_now()

        timer = self._loop.call_later(delay_s, due)
        self._waiting[timer] = try_now
        return True

    def _send(self, event: Event, response: Response, routes: list[Route]) -> Awaitable[None] | None:
        """Give the answer to its outputs; None when it is safe with all of them already."""
        waits = [wait for route in routes if (wait := route.output.send(event, response)) is not None]
        return _all(waits) if waits else None

    async def _send_stream(self, event: Event, response: Response, routes: list[Route]) -> None:
        waits = self._send(event, await whole(response), routes)
        if waits is not None:
            await waits

    async def _when_sent(
        self, event: Event, answer: asyncio.Future[Response], response: Response, waits: Awaitable[None]
    ) -> None:
        try:
            await waits
        except Exception as error:
            response = self._not_sent(event, error)
        _settle(answer, replace(response, chunks=None))

    def _not_sent(self, event: Event, error: Exception) -> Response:
        self._tell(event, f"its answer could not be sent: {error}")
        return failure("output_failed", str(error))

    def _tell(self, event: Event, what: str) -> None:
        self._log.error("event %s: %s", event.id, what, extra={"event_id": event.id})


async def _all(waits: Sequence[Awaitable[None]]) -> None:
    """Wait for every one, then raise the first error: an output that fails does not keep the others from finishing."""
    for result in await asyncio.gather(*waits, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _settle(answer: asyncio.Future[Response], response: Response) -> None:
    if not answer.done():
        answer.set_result(response)
