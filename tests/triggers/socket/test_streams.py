"""Connections as events, of peers that come and of servers that are heard: cut, answered, held back, closed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from edgehost.event import Event, Response
from tests.triggers.socket.conftest import Sockets, Until, gate


@pytest.mark.parametrize("where", ["tcp://127.0.0.1:0", "tcp://:0", "tcp://[::1]:0", "unix"])
async def test_lines_of_a_connection_are_events(sockets: Sockets, until: Until, tmp_path: Path, where: str) -> None:
    address = await sockets.listen(f"unix://{tmp_path}/s.sock" if where == "unix" else where)
    _, writer = await sockets.connect(address)
    writer.write(b"one\ntwo\r\nthr")
    await until(lambda: len(sockets.got) == 2)
    writer.write(b"ee\nlast")
    await until(lambda: len(sockets.got) == 3)
    writer.close()
    await until(lambda: len(sockets.got) == 4)
    assert sockets.got == [b"one", b"two", b"three", b"last"]
    peer = {"unix": f"unix://{tmp_path}/s.sock", "tcp://[::1]:0": "tcp://[::1]:"}.get(where, "tcp://127.0.0.1:")
    assert sockets.host.events[0].url.startswith(peer)
    await sockets.stop()
    assert not (tmp_path / "s.sock").exists()


async def test_answers_come_back_in_order_also_after_the_last_question(sockets: Sockets, until: Until) -> None:
    async def answer(event: Event) -> Response:
        await asyncio.sleep(0.05 if event.body == b"slow" else 0)
        return Response(200, body=event.body.upper())

    address = await sockets.listen("tcp://127.0.0.1:0", answer, write_answers=True)
    reader, writer = await sockets.connect(address)
    writer.write(b"slow\nquick\nlast")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 10) == b"SLOW\nQUICK\nLAST\n"


async def test_connections_do_not_mix(sockets: Sockets, until: Until) -> None:
    address = await sockets.listen("tcp://127.0.0.1:0", write_answers=True, framing={"kind": "length", "length_bytes": 2})
    clients = [await sockets.connect(address) for _ in range(20)]
    for part in range(3):
        for number, (_, writer) in enumerate(clients):
            writer.write([b"\x00", b"\x02" + b"%d" % (number % 10), b"!"][part])
        await asyncio.sleep(0.02)
    for number, (reader, _) in enumerate(clients):
        assert await asyncio.wait_for(reader.readexactly(4), 10) == b"\x00\x02%d!" % (number % 10)


async def test_a_slow_function_holds_the_peers_back_and_each_has_its_turn(sockets: Sockets, until: Until) -> None:
    opened, answer = gate()
    address = await sockets.listen("tcp://127.0.0.1:0", answer, max_in_flight=4, max_waiting=1)
    count = 6_000
    clients = []
    for name in (b"a", b"b"):
        _, writer = await sockets.connect(address)
        writer.write(b"".join(name + b" %d\n" % number for number in range(count)))
        clients.append(writer)
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)
    assert len(sockets.got) == 4
    opened.set()
    await until(lambda: len(sockets.got) == 2 * count)
    assert [body for body in sockets.got if body[:1] == b"a"] == [b"a %d" % number for number in range(count)]
    assert [body for body in sockets.got if body[:1] == b"b"] == [b"b %d" % number for number in range(count)]
    assert sockets.got.index(b"b 0") < 1000, "the second does not wait for all of the first"
    assert sockets.host.counts["dropped"] == 0


async def test_one_connection_too_many(sockets: Sockets, until: Until) -> None:
    address = await sockets.listen("tcp://127.0.0.1:0", max_connections=2)
    writers = [(await sockets.connect(address))[1] for _ in range(2)]
    await asyncio.sleep(0.05)
    reader, _ = await sockets.connect(address)
    with pytest.raises(ConnectionError):
        assert await reader.read() == b""
        raise ConnectionError
    await until(lambda: sockets.told[0] == "degraded")
    assert sockets.host.counts["refused"] == 1
    writers[0].close()
    await until(lambda: sockets.told[0] == "running")
    _, writer = await sockets.connect(address)
    writer.write(b"in\n")
    await until(lambda: sockets.got == [b"in"])


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(sockets: Sockets, until: Until) -> None:
    address = await sockets.listen("tcp://127.0.0.1:0", idle_timeout="300ms")
    (idle, _), (_, busy) = await sockets.connect(address), await sockets.connect(address)
    for _ in range(8):
        busy.write(b"x\n")
        await asyncio.sleep(0.1)
    assert await asyncio.wait_for(idle.read(), 10) == b""
    busy.write(b"still there\n")
    await until(lambda: sockets.got[-1:] == [b"still there"])
    assert sockets.host.counts["idle"] == 1


async def test_a_connection_that_breaks_off_in_a_frame(sockets: Sockets, until: Until) -> None:
    address = await sockets.listen("tcp://127.0.0.1:0")
    _, writer = await sockets.connect(address)
    writer.write(b"whole\nhal")
    await until(lambda: sockets.got == [b"whole"])
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()  # a reset
    await until(lambda: sockets.host.counts["incomplete"] == 1)
    assert sockets.got == [b"whole"]


async def test_a_peer_that_does_not_read_its_answers_is_held_back_and_harms_no_other(sockets: Sockets, until: Until) -> None:
    address = await sockets.listen(
        "tcp://127.0.0.1:0", lambda event: Response(200, body=bytes(100_000)), write_answers=True, framing="line"
    )
    _, deaf = await sockets.connect(address)
    deaf.write(b"q\n" * 2000)
    await asyncio.sleep(0.3)
    asked = len(sockets.got)
    assert asked < 2000
    reader, writer = await sockets.connect(address)
    writer.write(b"q\n")
    assert len(await asyncio.wait_for(reader.readexactly(100_001), 10)) == 100_001


async def test_stop_answers_what_was_heard(sockets: Sockets, until: Until) -> None:
    opened, answer = gate()
    address = await sockets.listen("tcp://127.0.0.1:0", answer, write_answers=True, max_in_flight=1)
    reader, writer = await sockets.connect(address)
    writer.write(b"1\n2\n3\nhal")
    await until(lambda: sockets.got)
    stopping = asyncio.create_task(sockets.stop())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    opened.set()
    assert await asyncio.wait_for(reader.read(), 10) == b"1\n2\n3\n"
    await stopping


@pytest.mark.parametrize("kind", ["tcp", "udp"])
async def test_an_address_that_is_taken(sockets: Sockets, until: Until, kind: str) -> None:
    taker = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    sockets.clients.append(taker)
    taker.bind(("127.0.0.1", 0))
    if kind == "tcp":
        taker.listen()
    where = f"{kind}://127.0.0.1:{taker.getsockname()[1]}"
    await sockets.start(listen=where)
    await until(lambda: sockets.told[0] == "degraded")
    assert sockets.told[1].startswith(f"{where} is taken by ") and f"(process {os.getpid()})" in sockets.told[1]
    taker.close()
    await until(lambda: sockets.told == ("running", f"listens at {where}"))


async def test_an_address_of_another_machine(sockets: Sockets, until: Until) -> None:
    await sockets.start(listen="tcp://192.0.2.1:9000")
    await until(lambda: sockets.told[0] == "degraded")
    assert "is not an address of this machine now" in sockets.told[1]


@pytest.mark.parametrize("kind", ["unix", "unixgram"])
async def test_a_socket_file_somebody_left_is_taken_over_and_another_is_not(
    sockets: Sockets, until: Until, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if kind == "unix" else socket.SOCK_DGRAM) as left:
        left.bind(str(path))
    await sockets.listen(f"{kind}://{path}")
    await sockets.stop()
    path.write_text("precious")
    await sockets.start(listen=f"{kind}://{path}")
    await until(lambda: sockets.told[0] == "degraded")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_server_is_heard_goes_and_comes_back(sockets: Sockets, until: Until, tmp_path: Path, kind: str) -> None:
    greeted: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeted.append(await reader.readline())
        writers.append(writer)
        writer.write(b"line %d\nhal" % len(greeted))

    async def server(port: int = 0) -> asyncio.AbstractServer:
        if kind == "unix":
            (tmp_path / "s").unlink(missing_ok=True)
            return await asyncio.start_unix_server(serve, tmp_path / "s")
        return await asyncio.start_server(serve, "127.0.0.1", port)

    running = await server()
    port = running.sockets[0].getsockname()[1] if kind == "tcp" else 0
    where = f"unix://{tmp_path}/s" if kind == "unix" else f"tcp://127.0.0.1:{port}"
    await sockets.start(connect=where, greeting="hello\n")
    await until(lambda: sockets.got == [b"line 1"])
    assert (greeted, sockets.told) == ([b"hello\n"], ("running", f"connected to {where}"))
    running.close()
    writers[0].close()
    await until(lambda: sockets.told[0] == "degraded")
    assert sockets.got == [b"line 1", b"hal"]
    running = await server(port)
    await until(lambda: b"line 2" in sockets.got and sockets.told[0] == "running")
    assert sockets.host.counts["reconnects"] == 1
    await sockets.stop()
    running.close()
    for writer in writers:
        writer.close()


async def test_a_server_that_is_not_there(sockets: Sockets, until: Until, free_port: Callable[[], int]) -> None:
    where = f"tcp://127.0.0.1:{free_port()}"
    await sockets.start(connect=where)
    assert sockets.told == ("degraded", f"still connecting to {where}")
    await until(lambda: "cannot be reached" in sockets.told[1])


async def test_a_name_nobody_knows(sockets: Sockets, until: Until) -> None:
    await sockets.start(connect="tcp://no-such-host.invalid:9")
    await until(lambda: "cannot be reached" in sockets.told[1])
