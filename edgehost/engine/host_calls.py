"""Host calls: what a handler has the agent do while it runs: call another function, publish. One worker's.

    call        answered with the other function's answer in one piece; given up when the caller's patience ends
    publish     under way at once, or kept for the event's end; the event's own answer counts when all of it is safe

Knows the agent by Owner alone; must not know frames' way to the worker, or when an event is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time

from edgehost.engine import frames
from edgehost.engine.call import BrokenOffError, Call, whole
from edgehost.engine.owner import Owner
from edgehost.event import Event, Response, failure


class HostCalls:
    """`reply(number, response)` answers the worker's call of that number."""

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, reply: Callable[[int, Response], None]) -> None:
        self._loop = loop
        self._owner = owner
        self._reply = reply
        self._replies: set[asyncio.Task[None]] = set()

    def give_up(self) -> None:
        """The worker is gone: nobody waits for an answer any more. What is being published goes on."""
        for reply in self._replies:
            reply.cancel()

    def call_function(self, number: int, ask: frames.Ask) -> None:
        """`context.platform.call_function`."""

        def answered(done: asyncio.Future[Response]) -> None:
            if done.cancelled():
                return  # its caller counts the same seconds, and has given up
            response = done.result()
            if response.chunks is None:
                self._reply(number, response)
            else:
                task = self._loop.create_task(self._reply_whole(number, response, ask.timeout_s or self._owner.timeout_s))
                self._replies.add(task)
                task.add_done_callback(self._replies.discard)

        asked = self._owner.call_function(ask.function, ask.event)
        asked.add_done_callback(answered)
        if ask.timeout_s is not None:
            # Its caller's patience is no reason to kill a worker: what has begun runs on, what still waits is not begun.
            patience = self._loop.call_later(ask.timeout_s, asked.cancel)
            asked.add_done_callback(lambda _: patience.cancel())

    async def _reply_whole(self, number: int, response: Response, timeout_s: float) -> None:
        """A caller in a worker has no use for chunks; the called worker must not wait for a reader that never comes."""
        try:
            response = await asyncio.wait_for(whole(response), timeout_s)
        except BrokenOffError as error:
            response = failure(error.code, str(error))
        except asyncio.TimeoutError:
            response = failure("timeout", f"the stream did not end within {timeout_s:g} s")
        self._reply(number, response)

    def publish(self, call: Call | None, publication: frames.Publication) -> None:
        """`context.publish`; `call` is the event it belongs to, if that is still under way."""
        if call is not None and call.kept is not None and self._owner.stores(publication.output):
            call.kept.append(publication)
            return
        sent = self._owner.publish(publication.output, publication.event)
        event_id = call.event.id if call is not None and isinstance(call.event, Event) else ""
        sent.add_done_callback(lambda done: self._published(done, publication.output, event_id))
        if call is not None:
            call.publications = [*(call.publications or ()), sent]

    def _published(self, done: asyncio.Future[None], output: str, event_id: str) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            self._owner.log(frames.Record("error", f"publish to {output!r} failed: {error}", {}, event_id, time()))

    def when_published(self, call: Call, then: Callable[[str], None]) -> None:
        """Call `then` with '' when everything the handler published is safe, or with what was not."""
        if not call.publications:
            then("")
            return
        self._owner.publishing += 1
        waiting = asyncio.gather(*call.publications, return_exceptions=True)

        def safe(done: asyncio.Future[list[BaseException | None]]) -> None:
            self._owner.publishing -= 1
            lost = [error for error in done.result() if error is not None]
            then(f"publish failed: {lost[0]}" if lost else "")
            self._owner.worker_free()

        waiting.add_done_callback(safe)
