"""The Modbus trigger against pymodbus's own servers, and against devices that misbehave."""

from __future__ import annotations

import asyncio
import os
import struct
import tty
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from edgehost.config import SerialPort
from edgehost.errors import TriggerError
from edgehost.event import Response, failure

if TYPE_CHECKING:
    from tests.triggers.modbus.conftest import Answer, Device, Polled

Meter = Callable[..., Awaitable["Polled"]]
MakeDevice = Callable[..., Awaitable["Device"]]
Holding = Callable[[dict[int, int]], "Answer"]

EVERYTHING = {
    "voltage": {"address": 1, "scale": 0.1},
    "low": {"address": 2, "type": "int16"},
    "energy": {"address": 3, "type": "uint32"},
    "temperature": {"address": 5, "type": "float32"},
    "name": {"address": 7, "type": "string", "length": 2},
    "input": {"table": "input", "address": 2},
    "coil": {"table": "coil", "address": 2},
    "discrete": {"table": "discrete", "address": 2},
}
VALUES = {
    "voltage": 230.5,
    "low": -2,
    "energy": 100_000,
    "temperature": 21.3,
    "name": "ABC",
    "input": 9,
    "coil": True,
    "discrete": True,
}


@pytest.mark.needs("module:pymodbus")
@pytest.mark.parametrize("served", ["tcp", "udp", "rtu+tcp", "serial"], indirect=True)
async def test_every_kind_of_register_over_every_wire(meter: Meter, served: dict[str, Any]) -> None:
    polled = await meter({**served, "registers": EVERYTHING})
    await polled.reads(3)
    assert polled.state == ("running", "")
    assert polled.bodies == [VALUES]
    event = polled.host.events[0]
    assert event.content_type == "application/json" and event.headers == {"X-Edgehost-Unit": "1"}
    assert event.id.endswith("-1") and event.url == served.get("url", served.get("port"))
    counts = polled.host.counts
    await polled.until(lambda: counts["requests"] == 4 * counts["reads"])  # the next read may have begun: between two it holds


@pytest.mark.parametrize("served", ["tcp"], indirect=True)
async def test_what_another_master_writes_is_told(meter: Meter, served: dict[str, Any]) -> None:
    from pymodbus.client import AsyncModbusTcpClient

    polled = await meter({**served, "registers": EVERYTHING})
    always = await meter({**served, "registers": EVERYTHING, "emit": "always"})
    await polled.reads(2)
    client = AsyncModbusTcpClient("127.0.0.1", port=int(served["url"].rpartition(":")[2]))
    await client.connect()
    await client.write_register(1, 2400)
    await client.write_coil(2, False)
    await polled.until(lambda: len(polled.bodies) == 3 or {"voltage": 240.0, "coil": False} in polled.bodies)
    client.close()
    told = {name: value for body in polled.bodies for name, value in body.items()}
    assert told == {**VALUES, "voltage": 240.0, "coil": False} and len(polled.bodies) <= 3
    await always.until(lambda: always.bodies[-1] == told)
    assert all(set(body) == set(VALUES) for body in always.bodies)


async def test_small_changes_are_kept_back(meter: Meter, device: MakeDevice, holding: Holding) -> None:
    held = {0: 100}
    made = await device(holding(held))
    polled = await meter({"url": made.url, "registers": {"a": {"address": 0, "deadband": 5}}})
    for value in (104, 105, 106, 102):
        await polled.reads(2)
        held[0] = value
    await polled.reads(2)
    assert polled.bodies == [{"a": 100}, {"a": 106}]


async def test_one_refused_register_does_not_keep_back_the_others(meter: Meter, device: MakeDevice, holding: Holding) -> None:
    held = {0: 10, 1: 11, 2: 12, 4: 14, 8: 18}
    made = await device(holding(held))
    registers = {name: {"address": address} for name, address in {"a": 0, "b": 1, "c": 2, "bad": 3, "e": 4, "i": 8}.items()}
    polled = await meter({"url": made.url, "registers": registers})
    await polled.told("degraded", "bad (holding 3): the device has nothing at this address", "(exception 2)")
    assert polled.bodies == [{"a": 10, "b": 11, "c": 12, "e": 14, "i": 18}]
    await polled.reads(2)
    asked = len(made.asked)
    await polled.reads(3)
    assert (len(made.asked) - asked) <= 5 * 4, "the halves that work are remembered"
    held[3] = 13
    await polled.told("running")
    assert polled.bodies[-1] == {"bad": 13} and polled.host.counts["refused"] >= 3


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1, "a, b (holding 0): the device has no such table (exception 1)"),
        (3, "does not give so many at once"),
        (6, "the device is busy"),
        (11, "the gateway gets no answer from the unit (exception 11)"),
        (99, "refused (exception 99)"),
    ],
)
async def test_every_exception_is_told_in_words(meter: Meter, device: MakeDevice, number: int, message: str) -> None:
    made = await device(lambda *asked: number)
    polled = await meter({"url": made.url, "registers": {"a": {"address": 0}, "b": {"address": 1}}})
    await polled.told("degraded", message)
    assert polled.bodies == [] and polled.host.counts["failed_reads"] == 0


async def test_a_silent_device_is_told_and_heard_when_it_speaks(meter: Meter, device: MakeDevice) -> None:
    answers: list[Any] = [None] * 3
    made = await device(lambda *asked: answers.pop() if answers else [5])
    polled = await meter({"url": made.url, "unit": 9, "registers": {"a": {"address": 0}}, "timeout_s": 0.1})
    await polled.told("degraded", f"unit 9 at {made.url} does not answer within 0.1 s, asked 3 times")
    await polled.told("running")
    assert polled.bodies == [{"a": 5}] and made.asked[0] == (9, 3, 0, 1)


async def test_what_was_read_before_a_silence_is_told(meter: Meter, device: MakeDevice) -> None:
    """A device that says nothing at all of what it does not have."""
    made = await device(lambda unit, function, address, count: None if address == 100 else [address])
    registers = {"mute": {"address": 100}, "good": {"address": 200}}
    polled = await meter({"url": made.url, "registers": registers, "timeout_s": 0.05, "retries": 0})
    await polled.until(lambda: polled.bodies == [{"good": 200}])
    await polled.told("degraded", "does not answer")


@pytest.mark.parametrize("rtu", [False, True])
async def test_an_answer_that_is_late_or_wrong_is_not_taken(meter: Meter, device: MakeDevice, rtu: bool) -> None:
    """Noise, another unit's answer, one of another size, a bad check; then the right one."""
    wrong: list[bytes] = []
    if rtu:
        wrong = [b"\xff\x00\x12", bytes.fromhex("0203020007bd86"), bytes.fromhex("010302000779ff")]
    else:
        wrong = [struct.pack(">HHHBBBH", 77, 0, 5, 1, 3, 2, 7), struct.pack(">HHHBBBH", 1, 0, 5, 2, 3, 2, 7)]
        wrong += [struct.pack(">HHHBBBHH", 3, 0, 7, 1, 3, 4, 7, 7), struct.pack(">HHHB", 4, 9, 1, 1)]
    waiting = list(wrong)
    made = await device(lambda *asked: waiting.pop(0) if waiting else [5], rtu)
    polled = await meter({"url": made.url, "registers": {"a": {"address": 0}}, "timeout_s": 0.1})
    await polled.reads(2)
    assert polled.bodies == [{"a": 5}]


async def test_a_lost_connection_is_made_anew(meter: Meter, device: MakeDevice, holding: Holding) -> None:
    held = {0: 1}
    made = await device(holding(held))
    polled = await meter({"url": made.url, "registers": {"a": {"address": 0}}, "timeout_s": 10.0})
    await polled.reads()
    for value in (2, 3, 4):
        held[0] = value
        made.hang_up()
        await polled.until(lambda value=value: polled.bodies[-1] == {"a": value})
    await polled.told("running")
    assert polled.bodies == [{"a": 1}, {"a": 2}, {"a": 3}, {"a": 4}]


async def test_a_device_that_hangs_up_on_a_request_is_told(meter: Meter, device: MakeDevice) -> None:
    made = await device(lambda *asked: made.hang_up())
    polled = await meter({"url": made.url, "registers": {"a": {"address": 0}}, "timeout_s": 10.0})
    await polled.told("degraded", "went away before the answer came")


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
async def test_nobody_there_is_told(meter: Meter, free_port: Callable[[], int], scheme: str) -> None:
    polled = await meter({"url": f"{scheme}://127.0.0.1:{free_port()}", "registers": {"a": {"address": 0}}, "timeout_s": 0.2})
    await polled.told("degraded", "cannot be reached: Connect call failed" if scheme == "tcp" else "went away before the answer")


async def test_two_units_share_a_connection_and_take_turns(meter: Meter, device: MakeDevice) -> None:
    made = await device(lambda unit, function, address, count: [unit])
    one = await meter({"url": made.url, "unit": 1, "registers": {"a": {"address": 0}}})
    two = await meter({"url": made.url, "unit": 2, "registers": {"a": {"address": 0}}, "first": "random"})
    await one.reads(3)
    await two.reads(3)
    assert (one.bodies, two.bodies) == ([{"a": 1}], [{"a": 2}]) and len(made.connections) == 1
    await one.stop()
    await two.reads(2)
    await two.stop()
    await asyncio.sleep(0.05)
    assert made.connections[0].transport.is_closing()


async def test_a_stop_in_the_middle_of_a_request_is_prompt(meter: Meter, device: MakeDevice) -> None:
    made = await device(lambda *asked: None)
    polled = await meter({"url": made.url, "registers": {"a": {"address": 0}}, "timeout_s": 60.0})
    await polled.until(lambda: made.asked)
    await asyncio.wait_for(polled.trigger.stop(), 5)
    assert polled.host.reports == []


async def test_a_busy_function_gets_every_reading_in_order(meter: Meter, device: MakeDevice) -> None:
    """A reading not taken is lost for ever: the device is read on while the function works."""
    numbers = iter(range(100_000))
    made = await device(lambda *asked: [next(numbers)])
    gate = asyncio.Event()

    async def answer(event: Any) -> Response:
        await gate.wait()
        return Response()

    polled = await meter({"url": made.url, "registers": {"n": {"address": 0}}, "max_in_flight": 1}, answer=answer)
    await polled.reads(10)
    assert len(polled.bodies) == 1
    gate.set()
    await polled.until(lambda: len(polled.bodies) >= 10)
    assert [body["n"] for body in polled.bodies[:10]] == list(range(10))


@pytest.mark.parametrize("code", ["stopped", "not_ready", "dropped", "queue_full"])
async def test_what_nobody_heard_is_told_again(meter: Meter, device: MakeDevice, holding: Holding, code: str) -> None:
    made = await device(holding({0: 1, 1: 2}))
    answers = [failure(code, "nobody there")] * 2
    registers = {"a": {"address": 0}, "b": {"address": 1}}
    polled = await meter({"url": made.url, "registers": registers}, answer=lambda event: answers.pop() if answers else Response())
    await polled.reads(6)
    assert polled.bodies == [{"a": 1, "b": 2}] * 3


async def test_what_found_no_room_is_told_again(meter: Meter, device: MakeDevice, holding: Holding) -> None:
    held = {0: 1, 1: 1}
    made = await device(holding(held))
    gate = asyncio.Event()

    async def answer(event: Any) -> Response:
        await gate.wait()
        return Response()

    settings = {"url": made.url, "max_in_flight": 1, "max_waiting": 1, "overflow": "drop_newest"}
    polled = await meter({**settings, "registers": {"a": {"address": 0}, "b": {"address": 1}}}, answer=answer)
    await polled.reads()
    for address, value in ((1, 2), (0, 3)):  # the first waits, the second finds no room
        held[address] = value
        await polled.reads(3)
    await polled.told("degraded", "events come faster")
    gate.set()
    await polled.until(lambda: {"a": 3} in polled.bodies)
    await polled.reads(2)
    assert polled.bodies == [{"a": 1, "b": 1}, {"b": 2}, {"a": 3}]
    assert polled.state == ("running", "")


async def test_what_was_told_since_is_not_forgotten(meter: Meter, device: MakeDevice, holding: Holding) -> None:
    held = {0: 1}
    made = await device(holding(held))
    gate = asyncio.Event()

    async def answer(event: Any) -> Response:
        await gate.wait()
        return failure("not_ready", "it starts") if event.id.endswith("-1") else Response()

    polled = await meter({"url": made.url, "registers": {"a": {"address": 0}}}, answer=answer)
    await polled.reads()
    held[0] = 2
    await polled.reads(2)
    gate.set()
    await polled.reads(3)
    assert polled.bodies == [{"a": 1}, {"a": 2}]


async def test_a_silence_during_an_overflow_is_told_after_it(meter: Meter, device: MakeDevice) -> None:
    answers: list[Any] = [[1], [2], [3]]
    made = await device(lambda *asked: answers.pop() if answers else None)
    gate = asyncio.Event()

    async def answer(event: Any) -> Response:
        await gate.wait()
        return Response()

    settings = {"url": made.url, "timeout_s": 0.05, "retries": 0, "max_in_flight": 1, "max_waiting": 1}
    polled = await meter({**settings, "registers": {"a": {"address": 0}}}, answer=answer)
    await polled.told("degraded", "does not answer")
    assert polled.host.counts["dropped"] == 1
    gate.set()
    await polled.until(lambda: len(polled.bodies) == 2)
    await asyncio.sleep(0.02)
    assert polled.state[0] == "degraded" and "does not answer" in polled.state[1]


async def test_a_port_that_is_not_there_is_told_with_advice(meter: Meter) -> None:
    polled = await meter({"port": "/dev/ttyNotHere", "registers": {"a": {"address": 0}}})
    await polled.told("degraded", "/dev/ttyNotHere is not there; plug it in, or name another port")


async def test_a_name_that_means_nothing_is_an_error(meter: Meter) -> None:
    with pytest.raises(TriggerError, match="port: 'meter-bus' is no port here"):
        await meter({"port": "meter-bus", "registers": {"a": {"address": 0}}})


@pytest.mark.parametrize("served", ["serial"], indirect=True)
async def test_a_port_may_be_named_in_the_configuration(meter: Meter, agent: Any, served: dict[str, Any]) -> None:
    agent.config = replace(agent.config, serial={"meter-bus": SerialPort(served["port"])})
    polled = await meter({"port": "meter-bus", "baud": 115200, "registers": EVERYTHING})
    await polled.reads()
    assert polled.bodies == [VALUES]


async def test_a_bus_that_goes_and_comes_back(meter: Meter, tmp_path: Any, free_port: Callable[[], int]) -> None:
    """The port is a link to a pseudo-terminal; it is pulled out and another one plugged in."""
    link = tmp_path / "ttyMETER"

    def plug(value: int) -> tuple[int, int]:
        near, slave = os.openpty()
        tty.setraw(near)
        link.symlink_to(os.ttyname(slave))

        def answer() -> None:
            frame = os.read(near, 256)
            if len(frame) == 8:
                body = struct.pack(">BBBH", frame[0], 3, 2, value)
                os.write(near, body + struct.pack("<H", crc16(body)))

        asyncio.get_running_loop().add_reader(near, answer)
        return near, slave

    def pull(near: int, slave: int) -> None:
        asyncio.get_running_loop().remove_reader(near)
        link.unlink()
        os.close(near)
        os.close(slave)

    ends = plug(1)
    polled = await meter({"port": str(link), "registers": {"a": {"address": 0}}, "timeout_s": 0.3})
    await polled.reads()
    pull(*ends)
    await polled.told("degraded")
    ends = plug(2)
    await polled.told("running")
    assert polled.bodies == [{"a": 1}, {"a": 2}]
    await polled.stop()
    pull(*ends)


def crc16(data: bytes) -> int:
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ 0xA001 if value & 1 else value >> 1
    return value
