"""uvicorn inside the agent's loop: no signals, no lifespan, no access log, and an end to clients that are too slow.

uvicorn has a timeout between two requests and none within one, and with httptools no bound on a request head. A connection is
looked at once a second; what it owes us then decides when it is closed:

    owes             while                                   closed after
    a whole head     no request, or the last one answered    HEAD_S (plus keepalive_s), or HEAD_BYTES at once (431)
    room to write    its answer stands still in our buffer   STALL_S without one byte taken
A slow body is the reader's business (`edgehost/http/body.py`). Imported only when the listener opens: it needs uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from edgehost.config import Http

HEAD_S = 20.0
STALL_S = 60.0
HEAD_BYTES = 64 * 1024
GRACE_S = 5
_TICK_S = 1.0
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class EmbeddedServer(uvicorn.Server):
    """One uvicorn server that leaves the process's signals alone and can be ended from within the loop."""

    def __init__(self, app: Any, config: Http) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_bounded_protocol(),
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=config.max_connections,
                timeout_keep_alive=config.keepalive_s,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._head_s = HEAD_S + config.keepalive_s
        self._owing: dict[Any, tuple[object, float]] = {}
        self._leave = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the agent."""
        yield

    async def main_loop(self) -> None:
        while not self.should_exit:
            await self.on_tick(0)
            self.close_slow(time.monotonic())
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._leave.wait(), _TICK_S)

    def leave(self) -> None:
        """End `serve`: no new connection, what is being answered gets GRACE_S."""
        self.should_exit = True
        self._leave.set()

    def close_slow(self, now: float) -> None:
        """Abort every connection that has owed the same thing for too long; `now` is monotonic seconds."""
        owing: dict[Any, tuple[object, float]] = {}
        for connection in list(self.server_state.connections):
            if (debt := _debt(connection)) is None:
                continue
            known, since = self._owing.get(connection, (None, now))
            since = since if known == debt else now
            owing[connection] = (debt, since)
            if now - since > (self._head_s if debt[0] == "head" else STALL_S):
                connection.transport.abort()
        self._owing = owing


def _debt(connection: Any) -> tuple[str, int] | None:
    if waiting := connection.transport.get_write_buffer_size():
        return "room", waiting
    if _between_requests(connection):
        return "head", id(connection.cycle)
    return None


def _between_requests(connection: Any) -> bool:
    cycle = connection.cycle
    return cycle is None or bool(cycle.response_complete)


def _bounded_protocol() -> type[asyncio.Protocol]:
    """uvicorn's httptools protocol with a bound on the request head, or its h11 one, which has a bound of its own."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        from uvicorn.protocols.http.h11_impl import H11Protocol

        return H11Protocol

    class BoundedProtocol(HttpToolsProtocol):
        head_bytes = 0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete:
                self.head_bytes = 0
                return
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(_TOO_LARGE)
                self.transport.close()

    return BoundedProtocol
