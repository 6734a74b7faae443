"""What a worker's handle asks of the function it works for. The function implements it; the handle only calls it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from edgehost.engine.call import Call
from edgehost.engine.frames import Record
from edgehost.event import Event, Response

if TYPE_CHECKING:
    from edgehost.engine.handle import WorkerHandle


class Owner(Protocol):
    """The function a worker works for."""

    timeout_s: float
    publishing: int
    """Answers that wait until what their handlers published is safe."""

    def answered(self, call: Call, response: Response) -> None: ...

    def batch_answered(self, call: Call, responses: list[Response]) -> None: ...

    def stream_ended(self, call: Call, reason: str, code: str) -> None: ...

    def worker_free(self) -> None: ...

    def stuck(self, worker: WorkerHandle) -> None: ...

    def requeue(self, calls: list[Call]) -> None: ...

    def stores(self, output: str) -> bool: ...

    def call_function(self, name: str, event: Event) -> asyncio.Future[Response]: ...

    def publish(self, output: str, event: Event) -> asyncio.Future[None]: ...

    def log(self, record: Record) -> None: ...
