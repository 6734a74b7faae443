"""Delivery: what happens to one event between its trigger and its acknowledgement: tries, and where the answer goes.

Only for events nobody waits for. Retries live here in memory; must not know how a function runs or what an output is made of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgehost.backoff import Backoff
from edgehost.errors import EdgehostError
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


class Delivery:
    """One trigger's way through the function: `submit` resolves when the answer, and every output it goes to, is safe."""

    def __init__(
        self,
        submit: Submit,
        retry: Retry,
        routes: Sequence[Route],
        log: logging.LoggerAdapter[logging.Logger],
        retried: Callable[[], None],
    ) -> None:
        self._submit = submit
        self._retry = retry
        self._routes = routes
        self._log = log
        self._retried = retried
        self._loop = asyncio.get_running_loop()
        self._sending: set[asyncio.Task[None]] = set()

    def submit(self, event: Event) -> asyncio.Future[Response]:
        """As Function.submit, for an event nobody waits for."""
        answer: asyncio.Future[Response] = self._loop.create_future()
        self._try(event, answer, Backoff(self._retry.delay_s, self._retry.max_delay_s))
        return answer

    def _try(self, event: Event, answer: asyncio.Future[Response], backoff: Backoff) -> None:
        self._submit(event).add_done_callback(lambda done: self._answered(event, answer, backoff, done.result()))

    def _answered(self, event: Event, answer: asyncio.Future[Response], backoff: Backoff, response: Response) -> None:
        if response.failed and response.code not in FINAL and backoff.failures + 1 < self._retry.attempts:
            delay_s = backoff.next()
            self._retried()
            self._log.warning("event %s failed (%s), try %d in %.1f s", event.id, response.code, backoff.failures + 1, delay_s)
            self._loop.call_later(delay_s, self._try, event, answer, backoff)
            return
        routes = [route for route in self._routes if route.wants(event.trigger.name, response.failed)]
        if response.failed:
            self._log.error(
                "event %s failed for good (%s): %s",
                event.id,
                response.code,
                response.body.decode("utf-8", "replace"),
                extra={"event_id": event.id},
            )
        if routes or response.chunks is not None:
            task = self._loop.create_task(self._send(event, answer, response, routes))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        elif not answer.done():
            answer.set_result(response)

    async def _send(self, event: Event, answer: asyncio.Future[Response], response: Response, routes: list[Route]) -> None:
        try:
            response = await whole(response)
            for route in routes:
                await route.output.send(event, response)
        except (EdgehostError, OSError) as error:
            self._log.error("event %s: its answer could not be sent: %s", event.id, error, extra={"event_id": event.id})
            response = failure("output_failed", str(error))
        if not answer.done():
            answer.set_result(response)


async def whole(response: Response) -> Response:
    """A streamed answer as one piece, for takers that have no use for chunks. Raises ConnectionError if the stream breaks off."""
    if response.chunks is None:
        return response
    body = [response.body]
    async for chunk in response.chunks:
        body.append(chunk)
    return Response(response.status, response.content_type, response.headers, b"".join(body), response.code, response.event_id)
