"""Batcher: collects a trigger's events into batches, so that one call of the handler answers many. Knows nothing of sources
or workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from edgehost.event import Event, Response
from edgehost.manifest.model import Batch

SubmitBatch = Callable[[list[Event]], "asyncio.Future[Any]"]


class Batcher:
    """`submit` takes single events and gives each its own answer; `deliver` gets up to `size` of them, at most `wait_s`
    after the first. It outlives the version it delivers to: assign `deliver` at an upgrade.
    """

    def __init__(self, batch: Batch, deliver: SubmitBatch) -> None:
        self.deliver = deliver
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Event, asyncio.Future[Response]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, event: Event) -> asyncio.Future[Response]:
        """Add an event to the batch being collected; the future resolves with this event's own answer."""
        future: asyncio.Future[Response] = self._loop.create_future()
        self._waiting.append((event, future))
        if len(self._waiting) >= self._batch.size:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._batch.wait_s, self.flush)
        return future

    def flush(self) -> None:
        """Deliver what is collected, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # An event whose submitter went away while the batch was collected is not worth a place in it.
        batch = [(event, future) for event, future in self._waiting if not future.done()]
        self._waiting.clear()
        if not batch:
            return
        events = [event for event, _ in batch]
        events[-1] = replace(events[-1], last_in_batch=True)
        self.deliver(events).add_done_callback(lambda done: _distribute(done, [future for _, future in batch]))


def _distribute(done: asyncio.Future[Any], futures: list[asyncio.Future[Response]]) -> None:
    for future, response in zip(futures, done.result(), strict=True):
        if not future.done():
            future.set_result(response)
