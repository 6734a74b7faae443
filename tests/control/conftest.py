"""An agent's host that answers by rote, a server in front of it, and raw connections to that server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgehost.control import protocol
from edgehost.control.local import LocalServer
from edgehost.control.protocol import FunctionStatus, Reloaded, TriggerStatus
from edgehost.control.stock import JournalStatus, WaitingEvents
from edgehost.errors import ConfigError, ControlError, StateError
from edgehost.event import Event, Origin, Response, failure
from edgehost.letter import Letter, Letters, Which, WholeLetter

LETTER = Letter(7, "echo", "web", "", "e1", "raised", "ValueError: no", 3, 1e9, 1e9 + 5, 9.0, 80)


class BrokenAgentError(RuntimeError):
    """Stands for a mistake in the agent's own code."""


@dataclass
class FakeHost:
    """Functions by name: `echo`, `slow` (never answers), `stream`, `torn`, `fails`, `bug`."""

    seen: list[Event] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    closed: list[str] = field(default_factory=list)
    wrong_config: str = ""
    asked: list[tuple[str, Which, int]] = field(default_factory=list)

    async def invoke(self, name: str, event: Event) -> Response:
        self.seen.append(event)
        self.entered.set()
        if name == "echo":
            return Response(200, event.content_type, event.headers, event.body)
        if name == "slow":
            await self._forever()
        if name in ("stream", "torn"):
            return Response(206, "text/plain", {}, b"head ", chunks=self._chunks(torn=name == "torn"))
        if name == "fails":
            return failure("raised", "ValueError: no")
        if name == "bug":
            raise BrokenAgentError("a mistake in the agent")
        raise ControlError(f"no function {name!r} here; there are echo, slow")

    async def _forever(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _chunks(self, torn: bool) -> AsyncIterator[bytes]:
        try:
            yield b"one "
            if torn:
                raise ConnectionError("worker died")
            yield b"two"
        finally:
            self.closed.append("chunks")

    def functions(self) -> list[FunctionStatus]:
        return [FunctionStatus("echo", "ready", handled=3, p50_ms=0.5, triggers=[TriggerStatus("web", "http", "running")])]

    def troubles(self) -> list[str]:
        return ["the disk is nearly full"]

    async def reload(self) -> Reloaded:
        if self.wrong_config:
            raise ConfigError(self.wrong_config)
        return Reloaded(added=["new"], restart=["[http]"])

    async def journal_status(self) -> JournalStatus:
        return JournalStatus("open", "/state/journal.db", events=[WaitingEvents("echo", "web", 2, 10, 1.5)], notes=["mended"])

    async def find_letters(self, which: Which, limit: int) -> Letters:
        self.asked.append(("find", which, limit))
        return Letters([LETTER], 7, {"echo": 7})

    async def whole_letter(self, number: int) -> WholeLetter:
        if number != LETTER.number:
            raise ControlError(f"there is no dead letter {number}")
        return WholeLetter(LETTER, Event(b"\xff", id="e1", trigger=Origin("http", "web")))

    async def replay_letters(self, which: Which) -> int:
        self.asked.append(("replay", which, 0))
        return 3

    async def drop_letters(self, which: Which) -> int:
        self.asked.append(("drop", which, 0))
        raise StateError("the journal is closed: the agent ends")


@dataclass
class Peer:
    """One raw connection: sends what it is told to, reads whole replies."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, message: protocol.Request) -> None:
        self.writer.write(protocol.encode(message))

    async def reply(self) -> protocol.Reply | None:
        """The next reply; None when the server has closed the connection."""
        try:
            header = await asyncio.wait_for(self.reader.readexactly(4), 20)
            payload = await asyncio.wait_for(self.reader.readexactly(protocol.payload_size(header)), 20)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return protocol.decode_reply(payload)


Connect = Callable[[], Awaitable[Peer]]


@pytest.fixture
async def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def server(host: FakeHost, tmp_path: Path) -> AsyncIterator[LocalServer]:
    server = LocalServer(tmp_path / "run" / "agent.sock", host)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def connect(server: LocalServer) -> AsyncIterator[Connect]:
    peers: list[Peer] = []

    async def open_peer() -> Peer:
        peer = Peer(*await asyncio.open_unix_connection(server.address))
        peers.append(peer)
        return peer

    yield open_peer
    for peer in peers:
        peer.writer.close()


@pytest.fixture
def host_factory() -> type[FakeHost]:
    """For a server whose loop the test does not run on itself."""
    return FakeHost
