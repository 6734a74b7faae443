"""Datagrams as events: heard, answered, held back, lost and counted."""

from __future__ import annotations

import asyncio
import socket
import stat
from functools import reduce
from operator import xor
from pathlib import Path

import pytest

from edgehost.event import Event, Response, failure
from tests.triggers.socket.conftest import Sockets, Until, gate


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
    assert (event.id[:4], event.id[-2:], event.content_type) == ("web-", "-1", "application/octet-stream")


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
