"""Triggers with sockets, and clients of theirs. Real sockets; the agent is a fake."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from edgehost.event import Event, Response
from edgehost.manifest.conversion import to_struct
from edgehost.triggers.socket import SocketTrigger
from edgehost.triggers.socket.settings import SocketSettings

Until = Callable[[Callable[[], object]], Awaitable[None]]


class Sockets:
    """Triggers with sockets, and clients of theirs."""

    def __init__(self, make_host: Callable[..., Any]) -> None:
        self._make_host = make_host
        self.host: Any = None
        self.triggers: list[SocketTrigger] = []
        self.clients: list[socket.socket] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self, answer: Any = None, **settings: Any) -> Any:
        self.host = self._make_host(**({"answer": answer} if answer else {}))
        trigger = SocketTrigger(to_struct(settings, SocketSettings), self.host)
        await trigger.start()
        self.triggers.append(trigger)
        return self.host

    async def listen(self, where: str, answer: Any = None, **settings: Any) -> tuple[str, int]:
        await self.start(answer, listen=where, **settings)
        for _ in range(2000):
            if self.told[1].startswith("listens at"):
                break
            await asyncio.sleep(0.005)
        address = self.told[1].removeprefix("listens at ")
        if "unix" in address:
            return address.partition("://")[2], 0
        host, _, port = address.partition("://")[2].rpartition(":")
        return {"0.0.0.0": "127.0.0.1", "[::]": "127.0.0.1"}.get(host, host.strip("[]")), int(port)

    def sender(self, family: int = socket.AF_INET, bind: Any = None) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        self.clients.append(sock)
        if bind is not None:
            sock.bind(bind)
        sock.settimeout(10)
        return sock

    async def connect(self, address: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await (asyncio.open_connection(*address) if address[1] else asyncio.open_unix_connection(address[0]))
        self.writers.append(writer)
        return reader, writer

    async def stop(self) -> None:
        for trigger in self.triggers:
            await asyncio.wait_for(trigger.stop(), 20)
        self.triggers.clear()

    @property
    def got(self) -> list[bytes]:
        return [event.body for event in self.host.events]

    @property
    def told(self) -> tuple[str, str]:
        return self.host.reports[-1] if self.host.reports else ("", "")


@pytest.fixture
async def sockets(whole_again: None, host: Callable[..., Any]) -> AsyncIterator[Sockets]:
    made = Sockets(host)
    yield made
    for client in made.clients:
        client.close()
    for writer in made.writers:
        writer.transport.abort()
    await made.stop()


def gate() -> tuple[asyncio.Event, Callable[[Event], Awaitable[Response]]]:
    opened = asyncio.Event()

    async def answer(event: Event) -> Response:
        await opened.wait()
        return Response(200, body=event.body)

    return opened, answer
