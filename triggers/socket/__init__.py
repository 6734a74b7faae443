"""What comes to a socket as events: SocketTrigger for each `[triggers.NAME]` of kind `socket`.

    listen, bound                running
    listen, taken or not there   degraded, with who has it; tried again
    too many connections         degraded; more are refused until one ends
    connect, connected           running
    connect, away                degraded; tried again after a growing delay
datagrams.py and streams.py know how bytes come; here they become events, and the function's room becomes theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

from msgspec import Struct

from edgehost.errors import TriggerError
from edgehost.event import Event, Response
from edgehost.framing.notation import octets
from edgehost.intake import NO_ANSWERS, Intake
from edgehost.numbering import Numbering
from edgehost.plugin import TriggerHost
from edgehost.reconnect import Reconnect
from edgehost.triggers.socket.address import bind, spell_peer
from edgehost.triggers.socket.datagrams import Datagrams
from edgehost.triggers.socket.settings import SocketSettings
from edgehost.triggers.socket.streams import Connection

_CONNECT_S = 10.0


class SocketTrigger:
    """See edgehost/plugin.py, Trigger. The owner of its connections (streams.py)."""

    Settings: ClassVar[type[Struct]] = SocketSettings
    replies: ClassVar[bool] = False

    def __init__(self, settings: SocketSettings, host: TriggerHost) -> None:
        self.settings = settings
        self.host = host
        self._address = settings.address
        self._intake = Intake(settings, host, self._room)
        self._connections: dict[Connection, None] = {}
        self._datagrams: Datagrams | None = None
        self._connected = 0
        self._refusing = False
        self._ids = Numbering(host.origin.name)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen or connect. What cannot be bound or reached now is a state, not an error. TriggerError: answers to durable
        events are asked for."""
        if self.host.durable and self.settings.write_answers:
            raise TriggerError(NO_ANSWERS.format(kind="mqtt"))
        listen = self._hear if self._address.datagrams else self._listen
        if self.settings.connect:
            self.host.report("degraded", f"still connecting to {self._address}")
        reconnect = Reconnect(
            self._connect if self.settings.connect else listen, lambda reason: self.host.report("degraded", reason)
        )
        self._running = asyncio.create_task(reconnect.run(), name=f"socket {self.host.origin.name}")
        await asyncio.sleep(0)  # a first try: what cannot be bound is known then

    async def stop(self) -> None:
        """Hear no more; return when what was heard has been answered."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        connections = list(self._connections)
        for connection in connections:
            connection.end()
        await self._intake.drain()
        for connection in connections:
            await connection.until_ended()
        if self._datagrams is not None:
            self._datagrams.end()

    def full(self) -> bool:
        """Whether the function has all it takes at once."""
        return self._intake.full

    def offer(self, body: bytes, peer: str, answered: Callable[[Response], None] | None) -> None:
        """One event."""
        now = datetime.now(timezone.utc)
        event = Event(body, self.settings.content_type, self._ids.next(), now, self.host.origin, url=peer)
        self._intake.offer(event, answered, answered is not None)

    def opened(self, connection: Connection) -> bool:
        """Take one more connection, if that is not one too many."""
        if len(self._connections) >= self.settings.max_connections:
            self.host.counts["refused"] += 1
            self._refusing = True
            self.host.report(
                "degraded", f"{len(self._connections)} connections are open, more are refused; raise max_connections"
            )
            return False
        self._connections[connection] = None
        return True

    def ended(self, connection: Connection) -> None:
        """A connection is over."""
        self._connections.pop(connection, None)
        if self._refusing and len(self._connections) < self.settings.max_connections:
            self._refusing = False
            self.host.report("running", f"listens at {self._address}")

    def _room(self) -> None:
        """Each connection in its turn: the one that was served first is last the next time."""
        if self._datagrams is not None:
            self._datagrams.room()
        for connection in list(self._connections):
            if self._intake.full:
                return
            if connection in self._connections:
                self._connections[connection] = self._connections.pop(connection)
            connection.room()

    async def _hear(self, settled: Callable[[], None]) -> None:
        self._datagrams = Datagrams(self.settings, self.host, self.offer, self.full)
        settled()
        self.host.report("running", f"listens at {self._datagrams.address}")
        try:
            await asyncio.Event().wait()
        finally:
            self._datagrams.close()

    async def _listen(self, settled: Callable[[], None]) -> None:
        sock, loop = bind(self._address), asyncio.get_running_loop()
        make = loop.create_unix_server if self._address.path else loop.create_server
        server = await make(lambda: Connection(self), sock=sock)
        settled()
        where = str(self._address) if self._address.path else spell_peer("tcp", sock.getsockname())
        self.host.report("running", f"listens at {where}")
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            if self._address.path:
                Path(self._address.path).unlink(missing_ok=True)

    async def _connect(self, settled: Callable[[], None]) -> None:
        connection = await self._reach()
        if self.settings.greeting:
            connection.greet(octets("greeting", self.settings.greeting))
        self._connected += 1
        self.host.counts["reconnects"] = self._connected - 1
        self.host.report("running", f"connected to {self._address}")
        heard = asyncio.create_task(connection.heard.wait())
        try:
            await asyncio.wait((heard, connection.lost), return_when=asyncio.FIRST_COMPLETED)
            if heard.done():
                settled()  # one that takes connections and closes them is tried less and less often
            why = await asyncio.shield(connection.lost)
        finally:
            heard.cancel()
        await connection.until_ended()
        raise TriggerError(f"{self._address}: {why}; it is tried again")

    async def _reach(self) -> Connection:
        loop, address = asyncio.get_running_loop(), self._address
        making: asyncio.Task[tuple[Any, Connection]] = asyncio.create_task(
            loop.create_unix_connection(lambda: Connection(self), address.path)
            if address.path
            else loop.create_connection(lambda: Connection(self), address.host, address.port)
        )
        try:
            await asyncio.wait({making}, timeout=_CONNECT_S)
            if not making.done():
                raise TriggerError(f"{address} does not answer within {_CONNECT_S:g} s; is it switched on, and reachable?")
            return making.result()[1]
        except OSError as error:
            why = error.strerror or str(error)
            raise TriggerError(f"{address} cannot be reached: {why}; start the server or mend connect") from None
        finally:
            making.cancel()
