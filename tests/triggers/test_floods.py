"""Floods: far more comes than the function takes, for it takes nothing; what is held in memory is bounded, by count and by bytes.

Where the source can wait, it waits, and nothing is lost: all of it comes once the function answers. Where it cannot, what is
dropped is counted.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import tty
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgehost import plugin
from edgehost.config import Config, Gpio
from edgehost.event import Event, Origin, Response
from edgehost.gpio import pins
from edgehost.gpio.sim import SimBoard
from edgehost.intake import HELD_BYTES
from edgehost.manifest.conversion import to_struct

Until = Callable[[Callable[[], object]], Awaitable[None]]
pytestmark = pytest.mark.usefixtures("whole_again")
READ_BYTES = 256 * 1024
"""The most that one read of a pipe, a connection or a port brings."""


@dataclass
class Flood:
    """One trigger of a function that answers nothing until `open` is set."""

    make_host: Callable[..., Any]
    agent: Any
    until: Until
    open: asyncio.Event = field(default_factory=asyncio.Event)
    host: Any = None
    trigger: Any = None
    closing: list[Callable[[], object]] = field(default_factory=list)

    async def start(self, kind: str, settings: dict[str, Any]) -> None:
        async def answer(event: Event) -> Response:
            await self.open.wait()
            return Response(200)

        made = plugin.load("trigger", kind)
        self.host = self.make_host(answer=answer, origin=Origin(kind, "in"))
        self.trigger = made(to_struct(settings, made.Settings), self.host)
        await self.trigger.start()

    @property
    def held(self) -> tuple[int, int]:
        """Events and bytes in the trigger's hands."""
        owner = getattr(self.trigger, "_files", None) or self.trigger
        count, size_bytes = owner._intake.held
        return int(count), int(size_bytes)

    async def close(self) -> None:
        self.open.set()
        if self.trigger is not None:
            await asyncio.wait_for(self.trigger.stop(), 20)
        for close in self.closing:
            close()


@pytest.fixture
async def flood(host: Callable[..., Any], agent: Any, until: Until, tmp_path: Path) -> AsyncIterator[Flood]:
    agent.config = Config(gpio=Gpio(driver="sim"), profile="raspberry-pi-4b", state=tmp_path / "state")
    made = Flood(host, agent, until)
    yield made
    await made.close()


async def pour(write: Callable[[bytes], int], data: bytes, stuck: int = 20) -> int:
    """Write until nobody takes any more, `stuck` times in a row; how much was taken."""
    at = missed = 0
    while at < len(data) and missed < stuck:
        try:
            at += write(data[at : at + 4096])
            missed = 0
        except BlockingIOError:
            missed += 1
        await asyncio.sleep(0 if not missed else 0.01)
    return at


def lines(count: int) -> bytes:
    return b"".join(b"line %07d\n" % number for number in range(count))


async def all_come(flood: Flood, write: Callable[[bytes], int], data: bytes, at: int) -> None:
    """The function answers: what was held back comes, in order."""
    flood.open.set()
    while at < len(data):
        at += await pour(write, data[at:])
    await flood.until(lambda: len(flood.host.events) == data.count(b"\n"))
    assert b"".join(event.body + b"\n" for event in flood.host.events) == data
    assert flood.host.counts["dropped"] == 0


async def test_a_serial_port_is_not_read_and_its_line_waits(flood: Flood) -> None:
    far, near = os.openpty()
    tty.setraw(near)
    os.set_blocking(far, False)
    flood.closing.append(lambda: (os.close(far), os.close(near)))
    await flood.start("serial", {"port": os.ttyname(near), "overflow": "block", "max_waiting": 100, "max_in_flight": 2})
    data = lines(50_000)
    taken = await pour(lambda piece: os.write(far, piece), data)
    assert taken < len(data), "the other side is made to wait"
    count, _ = flood.held
    assert count <= 2 + 100 + 65536 // 13 and flood.host.counts["blocked"] == 1
    await all_come(flood, lambda piece: os.write(far, piece), data, taken)
    assert flood.host.counts["blocked"] > 1


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_a_serial_port_that_is_read_on_drops_and_counts(flood: Flood, overflow: str) -> None:
    far, near = os.openpty()
    tty.setraw(near)
    os.set_blocking(far, False)
    flood.closing.append(lambda: (os.close(far), os.close(near)))
    await flood.start("serial", {"port": os.ttyname(near), "overflow": overflow, "max_waiting": 100, "max_in_flight": 2})
    await pour(lambda piece: os.write(far, piece), lines(5000), stuck=1000)
    await flood.until(lambda: flood.host.counts["frames"] == 5000)
    assert flood.held[0] == 102 and flood.host.counts["dropped"] == 5000 - 102


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_connection_is_not_read_and_its_sender_waits(flood: Flood, kind: str, tmp_path: Path) -> None:
    where = f"unix://{tmp_path}/s" if kind == "unix" else "tcp://127.0.0.1:0"
    await flood.start("socket", {"listen": where, "max_in_flight": 4})
    await flood.until(lambda: flood.host.message.startswith("listens"))
    client = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    flood.closing.append(client.close)
    port = flood.host.message.rpartition(":")[2]
    client.connect(f"{tmp_path}/s" if kind == "unix" else ("127.0.0.1", int(port)))
    client.setblocking(False)
    data = lines(1_000_000)
    taken = await pour(client.send, data)
    assert taken < len(data)
    (connection,) = flood.trigger._connections
    assert flood.held[0] == 4
    assert sum(map(len, connection._feed._frames)) <= READ_BYTES
    flood.open.set()
    client.shutdown(socket.SHUT_WR)
    whole = taken // 13
    await flood.until(lambda: len(flood.host.events) >= whole)
    assert b"".join(event.body + b"\n" for event in flood.host.events[:whole]) == data[: whole * 13]
    assert flood.host.counts["dropped"] == 0


async def test_a_unix_datagram_socket_is_not_read_and_its_sender_waits(flood: Flood, tmp_path: Path) -> None:
    await flood.start("socket", {"listen": f"unixgram://{tmp_path}/s", "max_in_flight": 4})
    await flood.until(lambda: flood.host.message.startswith("listens"))
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    flood.closing.append(client.close)
    client.connect(f"{tmp_path}/s")
    client.setblocking(False)
    sent = await pour(client.send, bytes(10_000_000)) // 4096
    assert flood.held == (4, 4 * 4096) and sent < 2400
    flood.open.set()
    await flood.until(lambda: len(flood.host.events) == sent)
    assert flood.host.counts["dropped"] == 0


async def test_udp_drops_and_counts(flood: Flood) -> None:
    settings = {"listen": "udp://127.0.0.1:0", "max_in_flight": 4, "max_waiting": 100}
    await flood.start("socket", settings)
    await flood.until(lambda: flood.host.message.startswith("listens"))
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flood.closing.append(client.close)
    client.connect(("127.0.0.1", int(flood.host.message.rpartition(":")[2])))
    for _ in range(500):
        for _ in range(10):
            client.send(bytes(1000))
        await asyncio.sleep(0)
    await flood.until(lambda: flood.host.counts["dropped"])
    assert flood.held == (104, 104_000)


async def test_a_command_waits_in_its_own_write(flood: Flood) -> None:
    await flood.start("exec", {"command": ["sh", "-c", "seq -f 'line %07.0f' 0 99999; exec sleep 1000"], "max_in_flight": 4})
    await flood.until(lambda: flood.trigger._output is not None and not flood.trigger._output.feed._reading)
    assert flood.held[0] == 4
    assert sum(map(len, flood.trigger._output.feed._frames)) <= READ_BYTES
    flood.open.set()
    await flood.until(lambda: len(flood.host.events) == 100_000)
    assert [event.body for event in flood.host.events] == lines(100_000).split(b"\n")[:-1]


async def test_files_stay_where_they_are(flood: Flood, tmp_path: Path) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    for number in range(40):
        (inbox / f"{number}").write_bytes(bytes(1 << 20))
    await flood.start("file", {"path": str(inbox), "settle_s": 0.01, "rescan_s": 0.1, "max_in_flight": 100})
    await flood.until(lambda: flood.trigger._files is not None and flood.held[1] >= HELD_BYTES)
    await asyncio.sleep(0.3)
    assert flood.held == (16, HELD_BYTES)
    flood.open.set()
    await flood.until(lambda: len(flood.host.events) == 40)


async def test_a_growing_file_is_read_no_further(flood: Flood, tmp_path: Path) -> None:
    logs = tmp_path / "in"
    logs.mkdir()
    (logs / "log").write_bytes(lines(100_000))
    await flood.start("file", {"path": str(logs), "mode": "tail", "rescan_s": 0.1, "max_in_flight": 4})
    await flood.until(lambda: flood.trigger._files is not None and flood.held[0] == 4)
    await asyncio.sleep(0.3)
    (tail,) = flood.trigger._files._tails.values()
    assert flood.held[0] == 4 and tail.offset <= READ_BYTES
    flood.open.set()
    await flood.until(lambda: len(flood.host.events) == 100_000)


async def test_a_database_is_not_asked_again(flood: Flood, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "db")
    connection.execute("CREATE TABLE t (id INTEGER)")
    connection.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(3000)])
    connection.commit()
    connection.close()
    sql = {"database": str(tmp_path / "db"), "query": "SELECT id FROM t WHERE id > :cursor ORDER BY id"}
    settings = {"interval_s": 0.02, "cursor": "id", "start": -1, "sql": sql, "max_records": 1000, "max_in_flight": 4}
    await flood.start("poll", settings)
    await flood.until(lambda: flood.host.events)
    await asyncio.sleep(0.2)
    assert flood.held[0] == 4 and flood.host.counts["records"] <= 1000
    flood.open.set()
    await flood.until(lambda: len(flood.host.events) == 3000)
    assert [int(event.body[6:-1]) for event in flood.host.events] == list(range(3000))


async def test_edges_are_dropped_and_counted(flood: Flood) -> None:
    flood.agent.parts[pins.SIM] = board = SimBoard()
    await flood.start("gpio", {"lines": ["SENSOR_A"], "max_in_flight": 4, "max_waiting": 100})
    place = next(line.place for chip in board.chips() for line in board.lines(chip) if line.name == "SENSOR_A")
    for number in range(2000):
        board.pull(place, number % 2 == 0)
        if number % 100 == 0:
            await asyncio.sleep(0)
    await flood.until(lambda: flood.host.counts["dropped"] + flood.host.counts["lost"] == 2000 - 104)
    assert flood.held[0] == 104


async def test_a_timer_queues_so_many_runs_and_no_more(flood: Flood) -> None:
    await flood.start("cron", {"every_s": 0.01, "overlap": "queue"})
    await flood.until(lambda: flood.trigger.skipped > 3)
    assert len(flood.trigger._waiting) == 100 and len(flood.host.events) == 1


async def test_registers_that_were_dropped_are_told_later(flood: Flood) -> None:
    value = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal value
        while head := await reader.read(12):
            value += 1
            writer.write(head[:4] + b"\0\5" + head[6:8] + b"\2" + value.to_bytes(2, "big"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    flood.closing.append(server.close)
    url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = {"url": url, "interval_s": 0.01, "registers": {"a": {"address": 0}}, "max_in_flight": 2, "max_waiting": 5}
    await flood.start("modbus", settings)
    await flood.until(lambda: flood.host.counts["dropped"] > 5)
    assert flood.held[0] <= 7
