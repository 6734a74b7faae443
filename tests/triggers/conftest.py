"""An agent in memory for the tests of HTTP and timer triggers, and a raw HTTP client: what is sent is what the test says.

Real sockets, no engine. `FakeHost` keeps the promises of edgehost/plugin.py, TriggerHost, that a trigger builds on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehost.config import Config, Http
from edgehost.event import Event, Origin, Response, failure
from edgehost.triggers.http import HttpTrigger

DEADLINE_S = 20

Answer = Callable[[Event], "Response | Awaitable[Response]"]


def echo(event: Event) -> Response:
    return Response(200, event.content_type or "text/plain", {}, event.body)


@dataclass
class FakeAgent:
    """What triggers share: the configuration and the parts made through `shared`."""

    config: Config
    parts: dict[str, Any] = field(default_factory=dict)

    async def close(self) -> None:
        for part in self.parts.values():
            await part.close()


@dataclass
class FakeHost:
    """One trigger's host. `answer` may give a Response at once or an awaitable of one."""

    agent: FakeAgent
    folder: Path
    function_name: str = "echo"
    origin: Origin = field(default_factory=lambda: Origin("http", "web"))
    standalone: bool = False
    answer: Answer = echo
    events: list[Event] = field(default_factory=list)
    futures: list[asyncio.Future[Response]] = field(default_factory=list)
    reports: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    children: set[int] = field(default_factory=set)
    durable: bool = False
    dedupes: bool = False
    behind: bool = False
    begun: bool = False
    """What `withdraw` is told about every event."""

    @property
    def config(self) -> Config:
        return self.agent.config

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        return logging.LoggerAdapter(logging.getLogger("edgehost.test"), {})

    @property
    def state(self) -> str:
        return self.reports[-1][0] if self.reports else "starting"

    @property
    def message(self) -> str:
        return self.reports[-1][1] if self.reports else ""

    def submit(self, event: Event) -> asyncio.Future[Response]:
        self.events.append(event)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        task = asyncio.ensure_future(self._settle(event, future))
        future.add_done_callback(lambda done: task.cancel() if done.cancelled() else None)
        return future

    ask = submit

    async def _settle(self, event: Event, future: asyncio.Future[Response]) -> None:
        answer = self.answer(event)
        response = answer if isinstance(answer, Response) else await answer
        if not future.done():
            future.set_result(response)

    def withdraw(self, future: asyncio.Future[Response]) -> bool:
        if self.begun or future.done():
            return False
        future.set_result(failure("no_worker", "no worker was free in time"))
        return True

    def broker(self, name: str) -> Any:
        raise AssertionError("neither HTTP nor cron asks for a broker")

    def shared(self, key: str, make: Callable[[], Any]) -> Any:
        return self.agent.parts.setdefault(key, make()) if key not in self.agent.parts else self.agent.parts[key]

    def report(self, state: str, message: str = "") -> None:
        self.reports.append((state, message))


@pytest.fixture
async def agent() -> AsyncIterator[FakeAgent]:
    """An agent whose HTTP listener takes any free port."""
    made = FakeAgent(Config(http=Http(listen="127.0.0.1:0", body_limit_bytes=100_000)))
    yield made
    await asyncio.wait_for(made.close(), 20)


@pytest.fixture
def host(agent: FakeAgent, tmp_path: Path) -> Callable[..., FakeHost]:
    """`host(function_name="a", answer=...)`: one more host of this agent. Its folder is the test's own."""

    def make(**what: Any) -> FakeHost:
        return FakeHost(**{"agent": agent, "folder": tmp_path, **what})

    return make


@dataclass
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


class Client:
    """One connection, raw: what is sent is what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, address: str) -> Client:
        if address.startswith("unix:"):
            return cls(*await asyncio.open_unix_connection(address[5:]))
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host.strip("[]"), int(port)))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self, to: str = "POST") -> Reply:
        """The next whole answer; `to` is the method it answers (HEAD has no body)."""
        return await asyncio.wait_for(self._reply(to), DEADLINE_S)

    async def _reply(self, to: str) -> Reply:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in head[1:-2])]
        reply = Reply(int(head[0].split()[1]), headers, b"")
        if to == "HEAD" or reply.status in (204, 304):
            return reply
        if reply.header("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                reply.body += chunk
        else:
            reply.body = await self.reader.readexactly(int(reply.header("content-length") or 0))
        return reply

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), DEADLINE_S)

    async def chunk(self) -> bytes:
        """The next chunk of a chunked answer; empty at its end."""
        size = int(await asyncio.wait_for(self.reader.readline(), DEADLINE_S), 16)
        return (await asyncio.wait_for(self.reader.readexactly(size + 2), DEADLINE_S))[:-2]

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        return await asyncio.wait_for(self.reader.read(), DEADLINE_S)

    def close(self) -> None:
        self.writer.transport.abort()


def request(method: str = "POST", target: str = "/echo", body: bytes = b"", headers: str = "", version: str = "1.1") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
    return f"{method} {target} HTTP/{version}\r\nHost: edge.local\r\n{length}{headers}\r\n".encode("latin-1") + body


@dataclass
class Site:
    """Started triggers and connections to their listener."""

    host: Callable[..., Any]
    triggers: list[HttpTrigger]
    clients: list[Client]
    address: str = ""
    request = staticmethod(request)

    async def serve(self, settings: dict[str, Any] | None = None, **what: Any) -> Any:
        """Start one more trigger; gives its host."""
        host = self.host(**what)
        trigger = HttpTrigger(msgspec.convert(settings or {}, HttpTrigger.Settings), host)
        await trigger.start()
        self.triggers.append(trigger)
        self.address = host.agent.parts["http"].address
        return host

    async def connect(self) -> Client:
        self.clients.append(await Client.connect(self.address))
        return self.clients[-1]

    async def ask(self, method: str = "POST", *args: Any, **what: Any) -> Reply:
        """One request on a connection of its own."""
        client = await self.connect()
        client.send(request(method, *args, **what))
        return await client.reply(method)


@pytest.fixture
async def site(host: Callable[..., Any]) -> AsyncIterator[Site]:
    made = Site(host, [], [])
    yield made
    for client in made.clients:
        client.close()
    for trigger in made.triggers:
        await asyncio.wait_for(trigger.stop(), DEADLINE_S)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """`await until(lambda: condition)`: return as soon as it holds, fail after a generous deadline."""

    async def wait(true: Callable[[], object]) -> None:
        async def poll() -> None:
            while not true():  # noqa: ASYNC110 - a test looks from outside; there is nothing to wait on
                await asyncio.sleep(0.005)

        await asyncio.wait_for(poll(), DEADLINE_S)

    return wait
