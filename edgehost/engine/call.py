"""Call: one event on its way through a function, and Stream: an answer that comes in pieces. Knows nothing of workers or
queues.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from edgehost.engine.frames import Publication
from edgehost.event import Event, Response, failure

FOREVER = float("inf")


class BrokenOffError(ConnectionError):
    """A stream could not be finished. `code` is the failure in which its event ends, a key of edgehost.event.FAILURES."""

    def __init__(self, reason: str, code: str) -> None:
        super().__init__(reason)
        self.code = code


class Call(Struct, eq=False):
    """One submitted event (or batch) and everything that is owed to whoever submitted it.

    `deadline` is in monotonic seconds and covers the wait. `ordinal` says which of its worker's events it is, `lent` where
    its body
    lies in the arena (0: nowhere). `publications` are messages the handler published that must be safe before the answer counts.
    """

    event: Event | list[Event]
    future: asyncio.Future[Any]
    submitted: float
    deadline: float
    ordinal: int = 0
    lent: int = 0
    stream: Stream | None = None
    publications: list[asyncio.Future[None]] | None = None
    acknowledged: bool = False
    held: Response | None = None
    kept: list[Publication] | None = None
    """Where publications go that are to leave with the answer and not before; None: they leave at once."""

    def settle(self, response: Response) -> None:
        """Give the answer, unless somebody did already or nobody waits any more. A failed batch fails for every member."""
        if not self.future.done():
            self.future.set_result([response] * len(self.event) if isinstance(self.event, list) else response)

    def fail(self, code: str, message: str) -> None:
        """Settle with a failure; a stream that has begun is broken off instead."""
        if self.stream is not None:
            self.stream.end(message, code)
        self.settle(failure(code, message))


class Stream:
    """The chunks of a streamed answer: an async iterator for whoever takes the answer.

    `more(n)` is called as chunks are taken, so that the worker may send n more; `cancel()` when the reader goes away early.
    Raises BrokenOffError in the reader when the worker could not finish.
    """

    def __init__(self, more: Callable[[int], None], cancel: Callable[[], None]) -> None:
        self._more = more
        self._cancel = cancel
        self._chunks: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._reason: str | None = None
        self._code = ""
        self._taken = 0

    def add(self, chunk: bytes) -> None:
        """One more chunk, unless the reader has gone away."""
        if self._reason is None:
            self._chunks.append(chunk)
            self._arrived.set()

    def end(self, reason: str, code: str = "raised") -> None:
        """No more chunks; `reason` is empty when the stream is complete, else `code` is the failure it stands for."""
        if self._reason is None:
            self._reason, self._code = reason, code
            self._arrived.set()

    @property
    def ended(self) -> bool:
        """No more chunks will come."""
        return self._reason is not None

    @property
    def unread(self) -> int:
        """Chunks that have arrived and wait for the reader."""
        return len(self._chunks)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._reason is not None:
                if self._reason:
                    raise BrokenOffError(self._reason, self._code)
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        self._taken += 1
        if self._taken >= 8 and self._reason is None:
            self._more(self._taken)
            self._taken = 0
        return self._chunks.popleft()

    async def aclose(self) -> None:
        """The reader wants no more: the worker's generator is closed."""
        if self._reason is None:
            self._cancel()
        self._chunks.clear()
        self.end("")


async def whole(response: Response) -> Response:
    """A streamed answer as one piece, for takers that have no use for chunks. Raises BrokenOffError if the stream breaks off."""
    if response.chunks is None:
        return response
    body = [response.body]
    try:
        async for chunk in response.chunks:
            body.append(chunk)
    except asyncio.CancelledError:
        await response.chunks.aclose()
        raise
    return Response(response.status, response.content_type, response.headers, b"".join(body), response.code, response.event_id)
