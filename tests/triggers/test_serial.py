"""The serial trigger and output between a pseudo-terminal and a function in memory."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehost.errors import TriggerError
from edgehost.event import Event, Origin, Response, failure
from edgehost.manifest.conversion import to_struct
from edgehost.triggers.serial import Doubt, SerialOutput, SerialTrigger

Until = Callable[[Callable[[], object]], Awaitable[None]]
SENTENCE = b"$GPGLL,4527.458,S,16709.165,E,225309,A*3E"


class Line:
    """The other side of a serial port at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.far = -1

    def plug_in(self) -> None:
        self.far, near = os.openpty()
        tty.setraw(near)
        os.set_blocking(self.far, False)
        self.path.symlink_to(os.ttyname(near))
        os.close(near)

    def pull(self) -> None:
        if self.far >= 0:
            os.close(self.far)
            self.path.unlink()
            self.far = -1

    def send(self, data: bytes) -> None:
        assert os.write(self.far, data) == len(data)

    def got(self) -> bytes:
        try:
            return os.read(self.far, 1 << 20)
        except OSError:
            return b""


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "tty")
    made.plug_in()
    yield made
    made.pull()


@pytest.fixture
def listen(host: Callable[..., Any], line: Line) -> Callable[..., Awaitable[tuple[SerialTrigger, Any]]]:
    """`await listen(framing="nmea", answer=...)`: a started trigger on the line, and its host."""

    async def start(answer: Any = None, function: str = "echo", **keys: Any) -> tuple[SerialTrigger, Any]:
        own = host(function_name=function, origin=Origin("serial", "line"), **({"answer": answer} if answer else {}))
        trigger = SerialTrigger(to_struct({"port": str(line.path), **keys}, SerialTrigger.Settings), own)
        await trigger.start()
        return trigger, own

    return start


Listen = Callable[..., Awaitable[tuple[SerialTrigger, Any]]]


async def test_a_frame_is_an_event(listen: Listen, line: Line, until: Until) -> None:
    trigger, host = await listen(framing="nmea", content_type="text/plain")
    assert host.reports == [("running", "")]
    line.send(SENTENCE + b"\r\n" + SENTENCE[:10])
    await until(lambda: host.events)
    line.send(SENTENCE[10:] + b"\r\n")
    await until(lambda: len(host.events) == 2)
    first, second = host.events
    assert first.body == second.body == SENTENCE
    assert (first.id[:5], first.id[-2:], second.id) == ("line-", "-1", f"{first.id[:-1]}2")
    assert first.trigger == Origin("serial", "line")
    assert (first.path, first.url, first.content_type) == (str(line.path), str(line.path), "text/plain")
    assert first.timestamp.utcoffset() is not None
    assert host.counts == {"frames": 2}
    await trigger.stop()


async def test_what_is_skipped_is_counted(listen: Listen, line: Line, until: Until) -> None:
    trigger, host = await listen(framing={"kind": "nmea", "frame_limit": 50})
    line.send(b"??" + SENTENCE.replace(b"A*", b"B*") + b"$" + b"x" * 60 + b"*00" + SENTENCE)
    await until(lambda: host.events)
    assert host.counts["garbage_bytes"] >= 2
    assert (host.counts["bad_checksum"], host.counts["too_long"], host.counts["frames"]) == (1, 1, 1)
    await trigger.stop()


async def test_answers_are_written_back_in_order(listen: Listen, line: Line, until: Until) -> None:
    """The function answers the second frame first; the line has them in the order of the frames."""
    gates: dict[bytes, asyncio.Event] = {b"a": asyncio.Event(), b"b": asyncio.Event(), b"c": asyncio.Event()}

    async def answer(event: Event) -> Response:
        await gates[event.body].wait()
        return failure("raised", "no") if event.body == b"c" else Response(200, "", {}, b"re " + event.body)

    trigger, host = await listen(answer, framing={"kind": "line", "terminator": "\r\n"}, write_answers=True)
    line.send(b"a\r\nb\r\nc\r\n")
    await until(lambda: len(host.events) == 3)
    gates[b"b"].set()
    gates[b"c"].set()
    await asyncio.sleep(0.02)
    assert line.got() == b""
    gates[b"a"].set()
    await until(lambda: host.counts["written"] == 2)
    assert line.got() == b"re a\r\nre b\r\n"
    await trigger.stop()


async def test_an_answer_that_cannot_be_written_is_a_state(listen: Listen, line: Line, until: Until) -> None:
    answers = iter([b"a\r\nb", bytes(300_000), b"", b"PMTK220,200"])
    trigger, host = await listen(lambda event: Response(200, "", {}, next(answers)), framing="nmea", write_answers=True)
    line.send(SENTENCE)
    await until(lambda: host.counts["unwritten"] == 1)
    assert host.reports[-1][0] == "degraded" and "an NMEA sentence is one line" in host.reports[-1][1]
    line.send(SENTENCE)
    await until(lambda: host.counts["unwritten"] == 2)
    line.send(SENTENCE * 2)
    await until(lambda: host.reports[-1][0] == "running")
    assert line.got() == b"$PMTK220,200*2C\r\n"
    await trigger.stop()


async def test_a_port_pulled_in_the_middle_of_a_frame_comes_back_clean(listen: Listen, line: Line, until: Until) -> None:
    trigger, host = await listen(framing="nmea")
    line.send(SENTENCE + SENTENCE[:20])
    await until(lambda: host.events)
    line.pull()
    await until(lambda: host.reports[-1][0] == "degraded")
    await until(lambda: "is not there; plug it in" in host.reports[-1][1])
    assert host.counts["incomplete"] == 1
    line.plug_in()
    await until(lambda: host.reports[-1][0] == "running")
    line.send(SENTENCE[20:] + SENTENCE)
    await until(lambda: len(host.events) == 2)
    assert host.events[1].body == SENTENCE
    assert host.counts["reconnects"] == 1
    await trigger.stop()


async def test_a_pause_ends_a_frame(listen: Listen, line: Line, until: Until) -> None:
    trigger, host = await listen(framing={"kind": "idle", "gap": "30ms"})
    line.send(b"one ")
    await asyncio.sleep(0.005)
    line.send(b"frame")
    await until(lambda: host.events)
    line.send(b"another")
    await until(lambda: len(host.events) == 2)
    assert [event.body for event in host.events] in ([b"one frame", b"another"], [b"one ", b"frame"])  # a slow machine
    await trigger.stop()


async def test_bytes_without_frames_raise_a_doubt(
    listen: Listen, line: Line, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgehost.triggers.serial._DOUBT_S", 0.05)
    trigger, host = await listen(framing="nmea", baud=4800)
    for _ in range(40):
        line.send(b"\xf8\x00\x9e" * 20)
        await asyncio.sleep(0.005)
    await until(lambda: host.reports[-1][0] == "degraded")
    assert "does the device send 4800 baud, 8 data bits, parity none, 1 stop bits" in host.reports[-1][1]
    line.send(SENTENCE)
    await until(lambda: host.reports[-1] == ("running", "frames come again"))
    await trigger.stop()


def test_a_doubt_needs_bytes_and_time() -> None:
    doubt = Doubt()
    assert not doubt.add(1_000, 0.0)
    assert not doubt.add(1, 2.9)
    assert doubt.add(1, 3.0)
    assert not doubt.add(1, 4.0)
    assert doubt.clear()
    assert not doubt.clear()
    assert not doubt.add(10, 10.0)
    assert not doubt.add(10, 20.0)
    assert doubt.add(500, 21.0)


async def test_an_endless_line_is_one_long_frame_and_little_memory(listen: Listen, line: Line, until: Until) -> None:
    trigger, host = await listen(framing={"kind": "line", "frame_limit": "1KiB"})
    sent = 0
    while sent < 200_000:
        try:
            sent += os.write(line.far, b"x" * 2000)
        except BlockingIOError:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    line.send(b"\nfine\n")
    await until(lambda: host.events)
    assert host.events[0].body == b"fine"
    assert (host.counts["too_long"], host.counts["frames"]) == (1, 1)
    await trigger.stop()


async def test_two_functions_hear_one_port(listen: Listen, line: Line, until: Until) -> None:
    one, first = await listen(framing="nmea", baud=4800)
    two, second = await listen(function="third", framing={"kind": "fixed", "size": 10})
    line.send(SENTENCE)
    await until(lambda: first.events and len(second.events) == len(SENTENCE) // 10)
    with pytest.raises(TriggerError, match=r"baud: 9600 is not what .* is used with already, 4800"):
        await listen(function="other", baud=9600)
    await one.stop()
    line.send(SENTENCE)
    await until(lambda: len(second.events) == 2 * len(SENTENCE) // 10)
    assert len(first.events) == 1
    await two.stop()


async def test_stopping_waits_for_what_was_heard_and_its_answer(listen: Listen, line: Line, until: Until) -> None:
    gate = asyncio.Event()

    async def answer(event: Event) -> Response:
        await gate.wait()
        return Response(200, "", {}, event.body)

    trigger, host = await listen(answer, write_answers=True)
    line.send(b"last\n")
    await until(lambda: host.events)
    stopping = asyncio.ensure_future(trigger.stop())
    await asyncio.sleep(0.02)
    assert not stopping.done()
    line.send(b"too late\n")
    gate.set()
    await stopping
    assert line.got() == b"last\n"
    assert len(host.events) == 1


async def test_an_output_writes_on_the_port_a_trigger_hears(listen: Listen, host: Any, line: Line, until: Until) -> None:
    trigger, heard = await listen(baud=115200)
    around = host()
    output = SerialOutput(msgspec.convert({"port": str(line.path), "framing": {"kind": "cobs"}}, SerialOutput.Settings), around)
    await output.start()
    event = Event()
    assert output.send(event, Response(200, "", {}, b"\x11\x22\0\x33")) is None
    assert output.send(event, Response(200, "", {}, b"")) is None
    assert line.got() == b"\x03\x11\x22\x02\x33\0"
    waits = [output.send(event, Response(200, "", {}, bytes([7]) * 20_000)) for _ in range(5)]
    got = b""
    while len(got) < 5 * 20_080:
        got += line.got()
        await asyncio.sleep(0)
    await asyncio.gather(*filter(None, waits))
    line.pull()
    await until(lambda: heard.reports[-1][0] == "degraded")
    with pytest.raises(TriggerError, match="is away"):
        output.send(event, Response(200, "", {}, b"x"))
    await output.stop()
    await trigger.stop()


async def test_an_output_refuses_what_its_framing_cannot_carry(host: Any, line: Line) -> None:
    keys = {"port": str(line.path), "framing": {"kind": "fixed", "size": 2}}
    output = SerialOutput(to_struct(keys, SerialOutput.Settings), host())
    await output.start()
    with pytest.raises(TriggerError, match="has 3 bytes; a frame of this framing has 2"):
        output.send(Event(), Response(200, "", {}, b"abc"))
    await output.stop()


async def test_a_port_that_is_nowhere_named_fails_the_start(host: Any) -> None:
    trigger = SerialTrigger(to_struct({"port": "meter"}, SerialTrigger.Settings), host())
    with pytest.raises(TriggerError, match=r"'meter' is no port here; add \[serial.meter\]"):
        await trigger.start()
    await trigger.stop()
