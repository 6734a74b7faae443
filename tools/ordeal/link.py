"""The line between agent and broker: passes MQTT packets on, tells the ledger of each, and can be slow, dead or cut.

A packet counts as having left the agent when it is read from it, and as having passed to the agent when it is written to it.
Knows nothing of what the packets mean.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from tools.ordeal.broker import free_port
from tools.ordeal.ledger import Ledger
from tools.ordeal.wire import Cutter, Packet

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset."""


class Link:
    """Listens at `port`, a free one, for the agent and connects it to the broker at `broker_port`."""

    def __init__(self, ledger: Ledger, broker_port: int) -> None:
        self.port = free_port()
        self.delay_s = 0.0
        self.cut_next = False
        """Cut the connection in the middle of its next packet, whichever way that goes."""
        self.cuts = 0
        self.failures: list[str] = []
        """What went wrong here and not with the peers: it makes the whole run worthless."""
        self._ledger = ledger
        self._broker_port = broker_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def stall(self) -> None:
        """Pass nothing on, either way, as if every packet were lost; TCP will repeat them all."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass on again what was held, in its order."""
        self._flowing.set()

    def close(self) -> None:
        """End every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connected(reader, writer)
        except (OSError, ValueError, asyncio.CancelledError):
            pass  # either side went away, or all ends; the other is told by the close
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        to_broker = await asyncio.open_connection("127.0.0.1", self._broker_port)
        for end in (writer, to_broker[1]):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._count += 1
        name = f"#{self._count}"
        line = self._ledger.line(name)
        ends = (writer, to_broker[1])
        ways = [
            asyncio.ensure_future(self._pass(reader, to_broker[1], ends, line.from_agent, line.to_broker)),
            asyncio.ensure_future(self._pass(to_broker[0], writer, ends, None, line.to_agent)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if ways[0].done() and not ways[1].done():
                await asyncio.wait(ways[1:], timeout=0.2)  # the broker may still say why it closes
        finally:
            for way in ways:
                way.cancel()
            to_broker[1].close()
            for ended in await asyncio.gather(*ways, return_exceptions=True):
                if isinstance(ended, Exception) and not isinstance(ended, OSError):
                    self.failures.append(f"{name}: {ended!r}")
            self._ledger.note("", f"{name} closed")

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        read: Callable[[Packet], None] | None,
        passed: Callable[[Packet], None],
    ) -> None:
        """One direction, until it ends. What has been read leaves before the end does."""
        held: asyncio.Queue[tuple[float, Packet] | None] = asyncio.Queue()
        leaving = asyncio.ensure_future(self._leave(held, writer, ends, passed))
        try:
            cutter = Cutter()
            while not leaving.done():
                data = await reader.read(_CHUNK)
                if not data:
                    break
                due = time.monotonic() + self.delay_s
                for packet in cutter.feed(data):
                    if read is not None:
                        read(packet)
                    held.put_nowait((due, packet))
            held.put_nowait(None)
            await leaving
        finally:
            leaving.cancel()

    async def _leave(
        self,
        held: asyncio.Queue[tuple[float, Packet] | None],
        writer: asyncio.StreamWriter,
        ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        passed: Callable[[Packet], None],
    ) -> None:
        while (item := await held.get()) is not None:
            due, packet = item
            if (wait_s := due - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            await self._flowing.wait()
            if self.cut_next:
                self.cut_next = False
                self.cuts += 1
                self._ledger.note("", f"the line is cut within {packet}")
                await _cut(writer, packet.raw[: len(packet.raw) // 2], ends)
                return
            writer.write(packet.raw)
            passed(packet)
            await writer.drain()


async def _cut(writer: asyncio.StreamWriter, half: bytes, ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
    """Half a packet, then a reset on both sides."""
    with suppress(OSError):
        writer.write(half)
        await writer.drain()
    for end in ends:
        sock = end.get_extra_info("socket")
        if sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.transport.abort()
