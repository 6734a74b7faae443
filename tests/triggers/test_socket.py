"""What comes to a socket as events: datagrams and connections, heard, answered, held back. Real sockets; the agent is a fake."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import reduce
from operator import xor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.event import Event, Response, failure
from edgehost.manifest.conversion import to_struct
from edgehost.manifest.problem import Mistake
from edgehost.triggers.socket import SocketTrigger
from edgehost.triggers.socket.address import FORM, Address, parse, spell_peer
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


@pytest.mark.parametrize("where", ["udp://127.0.0.1:0", "udp://:0", "udp://[::1]:0"])
async def test_datagrams_are_events(sockets: Sockets, until: Until, where: str) -> None:
    address = await sockets.listen(where)
    sender = sockets.sender(socket.AF_INET6 if "::1" in where else socket.AF_INET)
    for body in (b"one", b"", b"two\nlines\n"):
        sender.sendto(body, address)
    await until(lambda: len(sockets.got) == 3)
    assert sockets.got == [b"one", b"", b"two\nlines\n"]
    event = sockets.host.events[0]
    assert event.url == f"udp://{'[::1]' if '::1' in where else '127.0.0.1'}:{sender.getsockname()[1]}"
    assert (event.id, event.content_type) == ("web-1", "application/octet-stream")


async def test_datagrams_cut_by_a_framing(sockets: Sockets, until: Until) -> None:
    address = await sockets.listen("udp://127.0.0.1:0", framing="nmea")
    sender = sockets.sender()
    one, two, three = sentence("GPTXT,1"), sentence("GPTXT,2"), sentence("GPTXT,3")
    sender.sendto(one + two, address)
    sender.sendto(one.replace(b"1*", b"7*"), address)
    sender.sendto(three, address)
    await until(lambda: len(sockets.got) == 3)
    assert [body.strip() for body in sockets.got] == [one.strip(), two.strip(), three.strip()]
    assert sockets.host.counts["bad_checksum"] == 1


def sentence(text: str) -> bytes:
    return b"$%s*%02X\r\n" % (text.encode(), reduce(xor, text.encode()))


async def test_a_datagram_too_long_is_counted(sockets: Sockets, until: Until) -> None:
    address = await sockets.listen("udp://127.0.0.1:0", datagram_limit="1KiB")
    sender = sockets.sender()
    sender.sendto(bytes(1025), address)
    sender.sendto(bytes(1024), address)
    await until(lambda: sockets.got)
    assert (len(sockets.got[0]), sockets.host.counts["too_long"]) == (1024, 1)


async def test_what_the_kernel_has_no_room_for_is_counted(sockets: Sockets, until: Until) -> None:
    address = await sockets.listen("udp://127.0.0.1:0", receive_buffer=4096)
    sender = sockets.sender()
    for _ in range(200):
        sender.sendto(bytes(1000), address)
    await until(lambda: sockets.got)
    sender.sendto(b"one more tells", address)
    await until(lambda: sockets.got[-1] == b"one more tells")
    counts = sockets.host.counts
    assert counts["kernel_dropped"] > 0
    assert counts["kernel_dropped"] + len(sockets.got) == 201


async def test_what_the_function_has_no_room_for_is_dropped_as_overflow_says(sockets: Sockets, until: Until) -> None:
    opened, answer = gate()
    address = await sockets.listen("udp://127.0.0.1:0", answer, max_in_flight=1, max_waiting=2, overflow="drop_newest")
    sender = sockets.sender()
    for number in range(6):
        sender.sendto(b"%d" % number, address)
    await until(lambda: sockets.host.counts["dropped"] == 3)
    assert sockets.told[0] == "degraded"
    opened.set()
    await until(lambda: len(sockets.got) == 3 and sockets.told[0] == "running")
    assert sockets.got == [b"0", b"1", b"2"]


async def test_datagrams_are_answered_to_who_sent_them(sockets: Sockets, until: Until) -> None:
    def answer(event: Event) -> Response:
        return failure("raised", "no") if event.body == b"bad" else Response(200, body=event.body.upper())

    address = await sockets.listen("udp://127.0.0.1:0", answer, write_answers=True)
    one, two = sockets.sender(), sockets.sender()
    one.sendto(b"bad", address)
    one.sendto(b"a", address)
    two.sendto(b"b", address)
    await until(lambda: len(sockets.got) == 3)
    assert (one.recv(100), two.recv(100)) == (b"A", b"B")


async def test_an_answer_nobody_takes_harms_nothing(sockets: Sockets, until: Until) -> None:
    address = await sockets.listen("udp://127.0.0.1:0", lambda event: Response(200, body=bytes(70_000)), write_answers=True)
    sender = sockets.sender()
    sender.sendto(b"a", address)
    await until(lambda: sockets.host.counts["unanswered"] == 1)
    sender.close()
    other = sockets.sender()
    other.sendto(b"b", address)
    await until(lambda: len(sockets.got) == 2)


async def test_a_multicast_group(sockets: Sockets, until: Until) -> None:
    address = await sockets.listen("udp://:0", group="239.255.77.7", interface="lo")
    sender = sockets.sender()
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    sender.sendto(b"to all", ("239.255.77.7", address[1]))
    await until(lambda: sockets.got == [b"to all"])


async def test_an_interface_that_is_not_there(sockets: Sockets, until: Until) -> None:
    await sockets.start(listen="udp://:0", group="239.255.77.7", interface="no-such0")
    await until(lambda: sockets.told[0] == "degraded")
    assert "mend group or interface" in sockets.told[1]


async def test_senders_of_unix_datagrams_wait(sockets: Sockets, until: Until, tmp_path: Path) -> None:
    opened, answer = gate()
    path, _ = await sockets.listen(f"unixgram://{tmp_path}/in", answer, max_in_flight=2, max_waiting=1)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o660
    sender = sockets.sender(socket.AF_UNIX, f"{tmp_path}/out")
    loop = asyncio.get_running_loop()
    sending = loop.run_in_executor(None, lambda: [sender.sendto(b"%d" % number, path) for number in range(100)])
    await until(lambda: len(sockets.got) == 2)
    await asyncio.sleep(0.1)
    assert len(sockets.got) == 2 and not sending.done()
    opened.set()
    await sending
    await until(lambda: len(sockets.got) == 100)
    assert sockets.got == [b"%d" % number for number in range(100)]
    assert sockets.host.events[0].url == f"unixgram://{tmp_path}/out"
    await sockets.stop()
    assert not Path(path).exists()


async def test_a_stop_under_load_hears_no_more_and_leaves_no_reader_behind(
    sockets: Sockets, until: Until, tmp_path: Path
) -> None:
    opened, answer = gate()
    path, _ = await sockets.listen(f"unixgram://{tmp_path}/in", answer, max_in_flight=1)
    sender = sockets.sender(socket.AF_UNIX)
    for number in range(3):
        sender.sendto(b"%d" % number, path)
    await until(lambda: sockets.got)
    stopping = asyncio.create_task(sockets.stop())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    opened.set()
    await stopping
    assert sockets.got == [b"0"]
    loop, heard, pairs = asyncio.get_running_loop(), set[int](), [socket.socketpair() for _ in range(8)]
    for near, far in pairs:  # the first of them has the number of the socket that was closed
        loop.add_reader(near, heard.add, near.fileno())
        far.send(b"x")
    await asyncio.sleep(0.05)
    assert heard == {near.fileno() for near, _ in pairs}
    for near, far in pairs:
        loop.remove_reader(near)
        near.close()
        far.close()


async def test_unix_datagrams_are_answered_if_their_sender_has_a_name(sockets: Sockets, until: Until, tmp_path: Path) -> None:
    path, _ = await sockets.listen(f"unixgram://{tmp_path}/in", write_answers=True)
    named, nameless = sockets.sender(socket.AF_UNIX, f"{tmp_path}/out"), sockets.sender(socket.AF_UNIX)
    nameless.sendto(b"1", path)
    named.sendto(b"2", path)
    await until(lambda: len(sockets.got) == 2)
    assert named.recv(10) == b"2"
    assert sockets.host.counts["unanswered"] == 1


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


NO_NAME = "is not the name of a host; each part between its dots has 1 to 63 characters, as in gps.local"


@pytest.mark.parametrize(
    ("settings", "place", "text"),
    [
        ({}, "", 'give one of listen, as in "udp://:5514", and connect, as in "tcp://127.0.0.1:2947"'),
        ({"listen": "udp://:1", "connect": "tcp://a:1"}, "", None),
        ({"listen": "5514"}, "listen", f"'5514' is not an address; {FORM}"),
        ({"listen": "tcp://::1:80"}, "listen", None),
        ({"listen": "tcp://:65536"}, "listen", None),
        ({"listen": "http://:80"}, "listen", None),
        ({"listen": "unix://relative"}, "listen", None),
        ({"listen": "unix:///" + "x" * 108}, "listen", None),
        ({"listen": "tcp://localhost:80"}, "listen", None),
        ({"connect": "udp://a:1"}, "connect", None),
        ({"connect": "tcp://:1"}, "connect", None),
        ({"connect": "tcp://gps..local:2947"}, "connect", f"'gps..local' {NO_NAME}"),
        ({"connect": f"tcp://{'x' * 64}.local:2947"}, "connect", None),
        ({"connect": "tcp://gps\0.local:2947"}, "connect", None),
        ({"listen": "tcp://:1", "greeting": "x"}, "greeting", "goes with connect"),
        ({"connect": "tcp://a:1", "greeting": "0x1"}, "greeting", None),
        ({"listen": "tcp://:1", "group": "239.1.2.3"}, "group", "goes with listen = udp://…"),
        ({"listen": "udp://:1", "group": "10.1.2.3"}, "group", None),
        ({"listen": "udp://[::1]:1", "group": "239.1.2.3"}, "group", None),
        ({"listen": "udp://:1", "interface": "eth0"}, "interface", "goes with group"),
        ({"listen": "udp://:1", "datagram_limit": "1MiB"}, "datagram_limit_bytes", None),
    ],
)  # fmt: skip
def test_refused_settings(settings: dict[str, Any], place: str, text: str | None) -> None:
    with pytest.raises(Mistake) as caught:
        to_struct(settings, SocketSettings)
    assert caught.value.path == (place,)
    assert text is None or caught.value.text == text


@given(
    st.sampled_from(["udp", "tcp"]),
    st.one_of(st.just(""), st.ip_addresses().map(str), st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{1,5})?", fullmatch=True)),
    st.integers(0, 65535),
)
def test_addresses_read_as_they_are_written(kind: Any, host: str, port: int) -> None:
    address = Address(kind, host, port)
    assert parse("listen", str(address)) == address


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        parse("listen", text)
    except ValueError as error:
        assert str(error).startswith("listen: ")


def test_peers_are_spelt_as_people_know_them() -> None:
    assert spell_peer("udp", ("::ffff:10.0.0.1", 5, 0, 0)) == "udp://10.0.0.1:5"
    assert spell_peer("tcp", ("fe80::1", 5, 0, 2)) == "tcp://[fe80::1]:5"
    assert spell_peer("unixgram", None) == ""
    assert spell_peer("unixgram", b"\0abstract") == "unixgram://\0abstract"
