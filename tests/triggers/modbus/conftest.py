"""Devices to ask: pymodbus's own servers, and one of ours that misbehaves as the test says; and a trigger on a host in memory."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import time
import tty
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from edgehost.event import Origin
from edgehost.triggers.modbus import ModbusTrigger

DEADLINE_S = 20

Answer = Callable[[int, int, int, int], "list[int] | int | bytes | None"]


def crc(data: bytes) -> bytes:
    """The check of an RTU frame (MODBUS over Serial Line V1.02, 6.2.2), low byte first."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ 0xA001 if value & 1 else value >> 1
    return struct.pack("<H", value)


def pdu(function: int, answer: list[int] | int) -> bytes:
    """The answer to a read: values, or the number of an exception."""
    if isinstance(answer, int):
        return bytes([function | 0x80, answer])
    if function in (1, 2):
        packed = sum(bool(bit) << place for place, bit in enumerate(answer)).to_bytes((len(answer) + 7) // 8, "little")
        return bytes([function, len(packed)]) + packed
    return bytes([function, 2 * len(answer)]) + struct.pack(f">{len(answer)}H", *answer)


@dataclass
class Device:
    """Answers each read as `answer(unit, function, address, count)` says: values, an exception's number, bytes, or not at all."""

    answer: Answer
    rtu: bool = False
    asked: list[tuple[int, int, int, int]] = field(default_factory=list)
    url: str = ""
    connections: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = b"" if self.rtu else await reader.readexactly(6)
                body = await reader.readexactly(8 if self.rtu else 6)
                unit, function, address, count = struct.unpack(">BBHH", body[:6])
                self.asked.append((unit, function, address, count))
                said = self.answer(unit, function, address, count)
                if said is not None:
                    writer.write(said if isinstance(said, bytes) else self._frame(head, unit, pdu(function, said)))
        writer.close()

    def _frame(self, head: bytes, unit: int, answer: bytes) -> bytes:
        body = bytes([unit]) + answer
        return body + crc(body) if self.rtu else head[:4] + struct.pack(">H", len(body)) + body

    def hang_up(self) -> None:
        while self.connections:
            self.connections.pop().transport.abort()


@pytest.fixture
async def device() -> AsyncIterator[Callable[..., Awaitable[Device]]]:
    """`await device(answer, rtu=False)`: such a device on loopback."""
    servers: list[tuple[Device, asyncio.Server]] = []

    async def start(answer: Answer, rtu: bool = False) -> Device:
        made = Device(answer, rtu)
        server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
        made.url = f"{'rtu+tcp' if rtu else 'tcp'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        servers.append((made, server))
        return made

    yield start
    for made, server in servers:
        made.hang_up()
        server.close()
    await asyncio.sleep(0)


def memory(answered: dict[int, int]) -> Answer:
    """A device with these holding registers and nothing else."""

    def answer(unit: int, function: int, address: int, count: int) -> list[int] | int:
        if any(place not in answered for place in range(address, address + count)):
            return 2
        return [answered[place] for place in range(address, address + count)]

    return answer


@pytest.fixture
def holding() -> Callable[[dict[int, int]], Answer]:
    return memory


@dataclass
class Polled:
    """A trigger that reads, and what came of it."""

    trigger: ModbusTrigger
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
async def meter(host: Callable[..., Any]) -> AsyncIterator[Callable[..., Awaitable[Polled]]]:
    """`await meter(settings)`: a started trigger."""
    running: list[Polled] = []

    async def start(settings: dict[str, Any], **what: Any) -> Polled:
        made = host(origin=Origin("modbus", "meter"), **what)
        converted = msgspec.convert({"interval_s": 0.02, "timeout_s": 2.0, **settings}, ModbusTrigger.Settings)
        polled = Polled(ModbusTrigger(converted, made), made)
        running.append(polled)
        await polled.trigger.start()
        return polled

    yield start
    for polled in running:
        await polled.stop()


def context() -> Any:
    """What pymodbus's servers serve, in the words that 3.11 and 3.16 share."""
    from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext

    def block(values: list[Any]) -> Any:
        return ModbusSequentialDataBlock(1, values)  # its first address is one more than that on the wire

    held = [0, 2305, 0xFFFE, 0x0001, 0x86A0, 0x41AA, 0x6666, 0x4142, 0x4300, *[0] * 20]
    bits = [True, False, True, False, False, True, False, False]
    unit = ModbusDeviceContext(hr=block(held), ir=block([7, 8, 9]), co=block(bits), di=block(bits[::-1]))
    return ModbusServerContext(devices=unit, single=True)


@asynccontextmanager
async def running(server: Any) -> AsyncIterator[Any]:
    task = asyncio.create_task(server.serve_forever())
    deadline = time.monotonic() + DEADLINE_S
    while not server.transport:
        assert time.monotonic() < deadline and not task.done()
        await asyncio.sleep(0.005)
    try:
        yield server
    finally:
        await server.shutdown()
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
async def served(request: pytest.FixtureRequest, free_port: Callable[[], int]) -> AsyncIterator[dict[str, Any]]:
    """A pymodbus server as the parameter says (tcp, udp, rtu+tcp, serial): the settings that lead a trigger there."""
    from pymodbus.framer import FramerType
    from pymodbus.server import ModbusSerialServer, ModbusTcpServer, ModbusUdpServer

    kind, port = request.param, free_port()
    if kind == "serial":
        master, slave = os.openpty()
        tty.setraw(master)
        tty.setraw(slave)
        server = ModbusSerialServer(context(), framer=FramerType.RTU, port=os.ttyname(slave), baudrate=115200)
        async with bridge(master) as near, running(server):
            os.close(slave)
            yield {"port": near, "baud": 115200}
        return
    framer = FramerType.RTU if kind == "rtu+tcp" else FramerType.SOCKET
    made = ModbusUdpServer if kind == "udp" else ModbusTcpServer
    async with running(made(context(), framer=framer, address=("127.0.0.1", port))):
        yield {"url": f"{kind}://127.0.0.1:{port}"}


@asynccontextmanager
async def bridge(far: int) -> AsyncIterator[str]:
    """A second pseudo-terminal whose bytes go to and from `far`, as over a cable; gives its name."""
    loop = asyncio.get_running_loop()
    near, slave = os.openpty()
    tty.setraw(near)
    tty.setraw(slave)

    def carry(source: int, target: int) -> None:
        with suppress(OSError):
            os.write(target, os.read(source, 4096))

    loop.add_reader(near, carry, near, far)
    loop.add_reader(far, carry, far, near)
    try:
        yield os.ttyname(slave)
    finally:
        for descriptor in (near, far):
            loop.remove_reader(descriptor)
        for descriptor in (near, far, slave):
            os.close(descriptor)
