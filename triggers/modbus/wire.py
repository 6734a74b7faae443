"""Wires: where requests go out and answers come in. A serial port (edgehost/tty) or a connection, each shared by all that use it.

    lock       held for one request and its answer: a line carries one at a time, and so do most gateways
    hear       whoever holds the lock is told every byte, and when the wire is gone
Must not know what the bytes mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from edgehost.config import Config
from edgehost.errors import TriggerError
from edgehost.tty import LineSettings, Port, Ports, State

Heard = Callable[["bytes | None"], None]
"""Is called with bytes, and with None when the wire is gone and no answer will come."""


class Wire(Protocol):
    """A way to one or several units."""

    lock: asyncio.Lock
    hear: Heard | None

    @property
    def name(self) -> str:
        """Where it leads, for people and `event.url`."""

    async def ready(self, timeout_s: float) -> None:
        """Return when a request may be sent. Raises TriggerError: why none can be."""

    def write(self, data: bytes) -> None:
        """Send one request. Raises TriggerError."""

    def unheard(self) -> None:
        """No answer came in time: one that is late must not be taken for the next one's."""

    async def leave(self) -> None:
        """Its user goes."""


class SerialWire:
    """A serial port, for one trigger; its lock is that of all who use this port. A user of its port (edgehost/tty/port.py)."""

    prompt = True

    def __init__(self, function: str, line: LineSettings, back: Callable[[], None]) -> None:
        self.function = function
        self.line = line
        self.lock = asyncio.Lock()
        self.hear: Heard | None = None
        self._back = back
        self._port: Port | None = None
        self._heard_s = 0.0

    @property
    def name(self) -> str:
        return self._port.path if self._port is not None else self.line.port

    def join(self, port: Port, lock: asyncio.Lock) -> None:
        """Its port, and the lock of all who use it."""
        self._port, self.lock = port, lock

    async def ready(self, timeout_s: float) -> None:
        """Open, and silent for 3.5 characters, at least 1.75 ms (MODBUS over Serial Line V1.02, 2.5.1.1)."""
        assert self._port is not None
        await self._port.tried.wait()
        if self._port.state != "running":
            raise TriggerError(self._port.message)
        gap_s = max(0.00175, 3.5 * 11 / (self._port.line.baud or 9600))
        await asyncio.sleep(max(0.0, self._heard_s + gap_s - asyncio.get_running_loop().time()))

    def write(self, data: bytes) -> None:
        assert self._port is not None
        self._port.write(data)

    def unheard(self) -> None:
        pass  # opening a port again may reset what hangs on it; the next answer is told by unit, function and size

    async def leave(self) -> None:
        if self._port is not None:
            await self._port.leave(self)

    def received(self, data: bytes) -> None:
        """The port's bytes, those of other units' answers included."""
        self._heard_s = asyncio.get_running_loop().time()
        if self.hear is not None:
            self.hear(data)

    def port_is(self, state: State, message: str) -> None:
        """The port came or went."""
        if state == "running":
            self._back()
        elif self.hear is not None:
            self.hear(None)


class Connection:
    """A connection to a device or a gateway, opened by the first request and again after a loss; datagrams likewise."""

    def __init__(self, url: str, closed: Callable[[Connection], None]) -> None:
        self.name = url
        self.lock = asyncio.Lock()
        self.hear: Heard | None = None
        self.users = 0
        self._closed = closed
        self._end: _End | None = None

    async def ready(self, timeout_s: float) -> None:
        if self._end is not None:
            return
        url, loop, end = urlsplit(self.name), asyncio.get_running_loop(), _End(self._gone)
        host, port = url.hostname or "", url.port or 502
        try:
            if url.scheme == "udp":
                opening: Any = loop.create_datagram_endpoint(lambda: end, remote_addr=(host, port))
            else:
                opening = loop.create_connection(lambda: end, host, port)
            await asyncio.wait_for(opening, timeout_s)
        except asyncio.TimeoutError:
            raise TriggerError(f"{self.name} cannot be reached: no connection within {timeout_s:g} s") from None
        except OSError as error:
            raise TriggerError(f"{self.name} cannot be reached: {error.strerror or error}") from error
        self._end, end.hear = end, self._heard

    def write(self, data: bytes) -> None:
        if self._end is None:
            raise TriggerError(f"{self.name} closed the connection")
        self._end.write(data)

    def unheard(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end.drop()

    async def leave(self) -> None:
        self.users -= 1
        if self.users == 0:
            self._closed(self)
            self.unheard()

    def _heard(self, data: bytes) -> None:
        if self.hear is not None:
            self.hear(data)

    def _gone(self, end: _End) -> None:
        if end is self._end:
            self.unheard()
            if self.hear is not None:
                self.hear(None)


class _End(asyncio.Protocol, asyncio.DatagramProtocol):
    """This end of one TCP connection, or of one UDP socket."""

    def __init__(self, gone: Callable[[_End], None]) -> None:
        self.hear: Callable[[bytes], None] | None = None
        self._gone = gone
        self._transport: Any = None

    def write(self, data: bytes) -> None:
        send = getattr(self._transport, "sendto", None) or self._transport.write
        send(data)

    def drop(self) -> None:
        """Close at once; nothing that comes any more is heard."""
        self.hear = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self.hear is not None:
            self.hear(data)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.data_received(data)

    def error_received(self, exc: Exception) -> None:
        self._gone(self)  # nobody listens there (ICMP port unreachable)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone(self)


class Wires:
    """The wires in use, agent-wide: `host.shared(Wires.KEY, Wires)`."""

    KEY = "modbus"

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}
        self._locks: WeakKeyDictionary[Port, asyncio.Lock] = WeakKeyDictionary()

    def serial(
        self, function: str, line: LineSettings, ports: Ports, config: Config, back: Callable[[], None]
    ) -> SerialWire:
        """A wire to the port that `line` means, for a function; `back` is called when it has come. TriggerError: no such port, or
        a line set otherwise."""
        wire = SerialWire(function, line, back)
        port = ports.use(wire, config)
        wire.join(port, self._locks.setdefault(port, asyncio.Lock()))
        return wire

    def connection(self, url: str) -> Connection:
        """The connection to `url`, with one more user."""
        connection = self._connections.setdefault(url, Connection(url, self._forget))
        connection.users += 1
        return connection

    async def close(self) -> None:
        """Nothing to end: each connection goes with its last user."""

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection.name, None)
