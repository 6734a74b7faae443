"""A real web server that answers as the test says, and a poll trigger on a host in memory."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from edgehost.event import Origin
from edgehost.triggers.poll import PollTrigger

DEADLINE_S = 20


@dataclass
class Page:
    """One answer. `lie_bytes` is added to Content-Length; `hang` is awaited before the body's last byte."""

    body: bytes = b"[]"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    lie_bytes: int = 0
    hang: threading.Event | None = None


@dataclass
class Server:
    """`pages` are given one after another, the last of them again and again; `asked` holds each request."""

    url: str = ""
    pages: list[Page] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def say(self, *values: Any) -> None:
        """Answer with these JSON values from now on."""
        self.pages = [Page(json.dumps(value).encode()) for value in values]

    def give(self, *pages: dict[str, Any]) -> None:
        """Answer with these pages (the fields of Page) from now on."""
        self.pages = [Page(**page) for page in pages]

    def page(self) -> Page:
        return self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]


def handler_of(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            page = server.page()
            self.send_response(page.status)
            for name, value in page.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(page.body) + page.lie_bytes))
            self.end_headers()
            if page.hang is not None:
                self.wfile.write(page.body[:-1])
                self.wfile.flush()
                page.hang.wait(DEADLINE_S)
            self.wfile.write(page.body[-1:] if page.hang is not None else page.body)

        def log_message(self, *what: Any) -> None:
            pass

    return Handler


@pytest.fixture
def serve() -> Iterator[Callable[[], Server]]:
    """`serve()`: one more server on loopback."""
    running: list[ThreadingHTTPServer] = []

    def start() -> Server:
        server = Server(pages=[Page()])
        made = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(server))
        made.daemon_threads = True
        made.handle_error = lambda *what: None  # type: ignore[method-assign]  # clients that leave are what is tested
        server.url = f"http://127.0.0.1:{made.server_port}"
        running.append(made)
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for made in running:
        made.shutdown()
        made.server_close()


@pytest.fixture
def server(serve: Callable[[], Server]) -> Server:
    return serve()


@dataclass
class Polled:
    """A trigger that polls, and what came of it."""

    trigger: PollTrigger
    host: Any

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(event.body) for event in self.host.events]

    @property
    def state(self) -> tuple[str, str]:
        return self.host.reports[-1] if self.host.reports else ("starting", "")

    async def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline, (self.host.reports, self.host.counts, self.bodies)
            await asyncio.sleep(0.005)

    async def reads(self, count: int = 1) -> None:
        """Wait for so many more reads that worked."""
        wanted = self.host.counts["reads"] + count
        await self.until(lambda: self.host.counts["reads"] >= wanted)

    async def told(self, state: str, *parts: str) -> None:
        """Wait until the trigger reports this."""
        await self.until(lambda: self.state[0] == state and all(part in self.state[1] for part in parts))

    async def stop(self) -> None:
        await asyncio.wait_for(self.trigger.stop(), DEADLINE_S)


@pytest.fixture
async def poll(host: Callable[..., Any], agent: Any, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Polled]]]:
    """`await poll(settings, answer=…)`: a started trigger; its state lies in tmp_path/state."""
    agent.config = replace(agent.config, state=tmp_path / "state")
    running: list[Polled] = []

    async def start(settings: dict[str, Any], **what: Any) -> Polled:
        made = host(origin=Origin("poll", "records"), **what)
        converted = msgspec.convert({"interval_s": 0.02, "timeout_s": 5.0, **settings}, PollTrigger.Settings)
        polled = Polled(PollTrigger(converted, made), made)
        await polled.trigger.start()
        running.append(polled)
        return polled

    yield start
    for polled in running:
        await polled.stop()
