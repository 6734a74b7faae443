"""The gpio trigger over simulated chips: which events it makes of edges, and what it says when a line is not to be had."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehost.config import Config, Gpio
from edgehost.event import Event, Origin, Response
from edgehost.gpio import clock, pins
from edgehost.gpio.line import InputWish, Place
from edgehost.gpio.sim import SimBoard
from edgehost.triggers import gpio
from edgehost.triggers.gpio import GpioSettings, GpioTrigger

pytestmark = pytest.mark.usefixtures("whole_again")

CONFIG = Config(gpio=Gpio(driver="sim"), profile="raspberry-pi-4b")


@dataclass
class Rig:
    """One simulated board, and triggers that listen to it."""

    host: Callable[..., Any]
    agent: Any
    board: SimBoard
    triggers: list[GpioTrigger] = field(default_factory=list)

    async def trigger(self, answer: Any = None, function: str = "button", **settings: Any) -> Any:
        """One more trigger, started; gives its host."""
        host = self.host(
            origin=Origin("gpio", "pin"), function_name=function, **({"answer": answer} if answer is not None else {})
        )
        trigger = GpioTrigger(msgspec.convert(settings, GpioSettings), host)
        self.triggers.append(trigger)
        await asyncio.wait_for(trigger.start(), 20)
        return host

    def place(self, name: str) -> Place:
        return next(line.place for chip in self.board.chips() for line in self.board.lines(chip) if line.name == name)

    def pull(self, name: str, *levels: int) -> None:
        for level in levels:
            self.board.pull(self.place(name), bool(level))


@pytest.fixture
async def rig(host: Callable[..., Any], agent: Any) -> AsyncIterator[Rig]:
    agent.config = CONFIG
    agent.parts[pins.SIM] = board = SimBoard()
    made = Rig(host, agent, board)
    yield made
    for trigger in made.triggers:
        await asyncio.wait_for(trigger.stop(), 20)


def bodies(host: Any) -> list[dict[str, Any]]:
    return [msgspec.json.decode(event.body) for event in host.events]


async def test_an_edge_is_an_event(rig: Rig, until: Any) -> None:
    host = await rig.trigger(lines=["SENSOR_A"])
    before = time.monotonic_ns()
    rig.pull("SENSOR_A", 1, 0)
    await until(lambda: len(host.events) == 2)
    first, second = bodies(host)
    assert before < first.pop("monotonic_ns") < second.pop("monotonic_ns")
    assert first == {"line": "SENSOR_A", "edge": "rising", "value": 1, "seqno": 1}
    assert second == {"line": "SENSOR_A", "edge": "falling", "value": 0, "seqno": 2}
    event = host.events[0]
    assert (event.content_type, event.trigger, event.path) == ("application/json", Origin("gpio", "pin"), "SENSOR_A")
    assert event.headers == {"X-Edgehost-Seqno": "1"}
    assert abs((datetime.now(timezone.utc) - event.timestamp).total_seconds()) < 20
    assert host.events[0].id != host.events[1].id
    assert host.reports == [("running", "")]


@pytest.mark.parametrize(
    ("settings", "levels", "edges"),
    [
        ({}, (1, 0, 1), ["rising", "falling", "rising"]),
        ({"edges": "rising"}, (1, 0, 1), ["rising", "rising"]),
        ({"edges": "falling"}, (1, 0, 1, 0), ["falling", "falling"]),
        ({"active_low": True, "pull": "up"}, (0, 1), ["rising", "falling"]),
        ({"edges": "rising", "debounce_s": 0.02}, (1, 0, 1), ["rising"]),
    ],
)
async def test_settings_choose_edges(rig: Rig, until: Any, settings: Any, levels: Any, edges: list[str]) -> None:
    host = await rig.trigger(lines=["IN"], **settings)
    rig.pull("IN", *levels)
    await until(lambda: len(host.events) >= len(edges))
    await asyncio.sleep(0.06)
    assert [body["edge"] for body in bodies(host)] == edges


async def test_header_names_of_the_profile_are_lines(rig: Rig, until: Any) -> None:
    host = await rig.trigger(lines=["J8-11", "BCM27"])
    (chip,) = rig.board.chips()
    rig.board.pull(Place(chip.path, 17), True)
    rig.board.pull(Place(chip.path, 27), True)
    await until(lambda: len(host.events) == 2)
    assert [event.path for event in host.events] == ["J8-11", "BCM27"]


async def test_two_functions_hear_one_line(rig: Rig, until: Any) -> None:
    one = await rig.trigger(lines=["J8-11"])
    two = await rig.trigger(lines=["BCM17"], function="other", edges="rising")
    (chip,) = rig.board.chips()
    for level in (True, False):
        rig.board.pull(Place(chip.path, 17), level)
    await until(lambda: len(one.events) == 2 and len(two.events) == 1)
    assert [event.path for event in (*one.events, *two.events)] == ["J8-11", "J8-11", "BCM17"]


async def test_a_button_held_makes_events_until_it_is_let_go(rig: Rig, until: Any) -> None:
    host = await rig.trigger(lines=["BUTTON"], edges="rising", hold_s=0.03, repeat_s=0.02)
    rig.pull("BUTTON", 1)
    await until(lambda: len(host.events) >= 4)
    rig.pull("BUTTON", 0)
    await asyncio.sleep(0.03)
    count = len(host.events)
    await asyncio.sleep(0.06)
    assert len(host.events) == count
    told = bodies(host)
    assert [body["edge"] for body in told] == ["rising", "hold"] + ["repeat"] * (count - 2)
    assert told[1]["held_s"] == pytest.approx(0.03, abs=0.25) and told[1]["count"] == 1
    assert [body["count"] for body in told[2:]] == list(range(2, count))
    rig.pull("BUTTON", 1, 0)
    await until(lambda: len(host.events) == count + 1)
    assert bodies(host)[-1]["edge"] == "rising"


async def test_pulses_are_counted_in_windows(rig: Rig, until: Any) -> None:
    host = await rig.trigger(lines=["FLOW"], edges="rising", window_s=0.2)
    for _ in range(20):
        rig.pull("FLOW", 1, 0)
        await asyncio.sleep(0.01)
    await until(lambda: sum(body["count"] for body in bodies(host)) == 20)
    told = [body for body in bodies(host) if body["count"]]
    assert all(body["edge"] == "window" and body["window_s"] == 0.2 and body["lost"] == 0 for body in told)
    assert all(0 < body["frequency_hz"] <= 100 for body in told if body["count"] > 1)
    assert host.reports == [("running", "")]


@pytest.mark.parametrize("how", ["stop", "unplug"])
async def test_what_was_counted_is_told_when_nobody_listens_any_more(rig: Rig, until: Any, how: str) -> None:
    host = await rig.trigger(lines=["FLOW"], edges="rising", window_s=3600)
    rig.pull("FLOW", 1, 0, 1, 0, 1)
    if how == "stop":
        await rig.triggers[-1].stop()
    else:
        await asyncio.sleep(0.05)  # what waits in a chip that goes is lost with it
        rig.board.unplug(rig.board.chips()[0])
        await until(lambda: host.events)
    (told,) = bodies(host)
    assert (told["edge"], told["count"]) == ("window", 3) and 0 < told["window_s"] < 60


async def test_a_loop_held_up_loses_no_window_and_mixes_none(rig: Rig, until: Any) -> None:
    """The timer fires late: pulses made before and after the window's end are told apart by their times."""
    host = await rig.trigger(lines=["FLOW"], edges="rising", window_s=0.1)
    start = bodies(host)
    assert start == []
    rig.pull("FLOW", 1, 0)
    time.sleep(0.25)  # noqa: ASYNC251 - it is the loop that is to be held up
    rig.pull("FLOW", 1, 0, 1, 0)
    await until(lambda: len(host.events) >= 4)
    assert [body["count"] for body in bodies(host)][:4] == [1, 0, 2, 0]


async def test_lost_edges_are_counted_and_told(rig: Rig, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpio, "LOSS_S", 0.05)
    host = await rig.trigger(lines=["FAST"])
    rig.pull("FAST", *[1, 0] * 1000)
    await until(lambda: host.events)
    assert host.counts == {"lost": 976}
    assert [state for state, _ in host.reports] == ["running", "degraded"]
    assert "edges come faster than they can be read" in host.reports[-1][1]
    await until(lambda: host.reports[-1] == ("running", ""))


async def test_a_burst_of_a_hundred_thousand_and_a_slow_function(rig: Rig, until: Any) -> None:
    """Nothing grows: the buffer holds 1,024, the intake what it is told to, and the rest is counted."""
    gate = asyncio.Event()

    async def slow(event: Event) -> Response:
        await gate.wait()
        return Response()

    host = await rig.trigger(slow, lines=["FAST"], max_waiting=500, max_in_flight=4)
    for _ in range(100):
        rig.pull("FAST", *[1, 0] * 500)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await until(lambda: host.counts["lost"] + host.counts["dropped"] == 100_000 - 504)
    assert len(host.events) == 4
    gate.set()
    await until(lambda: len(host.events) == 504)
    assert bodies(host)[-1]["seqno"] == 100_000, "the newest are kept"


async def test_a_line_that_is_taken_comes_back(rig: Rig, until: Any) -> None:
    rig.board.add("sim", ["SENSOR_A"])
    held = rig.board.input(rig.place("SENSOR_A"), InputWish(), "gpio-keys")
    host = await rig.trigger(lines=["SENSOR_A"])
    assert host.reports == [
        ("degraded", "SENSOR_A is in use by 'gpio-keys' (/dev/gpiochip0 line 0); stop that, or use another line")
    ]
    held.release()
    await until(lambda: host.reports[-1] == ("running", ""))
    rig.pull("SENSOR_A", 1)
    await until(lambda: host.events)


async def test_a_chip_pulled_out_comes_back(rig: Rig, until: Any) -> None:
    board = rig.agent.parts[pins.SIM] = rig.board = SimBoard(invent=False)
    board.add("builtin", ["DOOR"])
    chip = board.add("usb-adapter", ["SENSOR_A"])
    host = await rig.trigger(lines=["SENSOR_A", "DOOR"], hold_s=60)
    rig.pull("SENSOR_A", 1)
    board.unplug(chip)
    await until(lambda: host.reports[-1][0] != "running")
    assert host.reports[-1] == ("degraded", "SENSOR_A: its chip /dev/gpiochip1 has gone; plug it in again")
    rig.pull("DOOR", 1)
    await until(lambda: host.events)
    await until(lambda: "SENSOR_A: no line has this name" in host.reports[-1][1])
    assert {state for state, _ in host.reports} == {"running", "degraded"}, "it was there, so it comes back"
    board.add("usb-adapter", ["SENSOR_A"])
    await until(lambda: host.reports[-1] == ("running", ""))
    rig.pull("SENSOR_A", 1)
    await until(lambda: len(host.events) == 2)


async def test_listener_and_driver_of_one_line_are_kept_apart(rig: Rig) -> None:
    host = await rig.trigger(lines=["X"])
    other = await rig.trigger(lines=["X"], function="other", active_low=True)
    assert host.reports[-1] == ("running", "")
    assert other.reports[-1][0] == "failed" and "button/pin listens to this line with another pull" in other.reports[-1][1]


async def test_without_gpiod_it_says_what_to_install(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(Exception, match=r"pip install 'edgehost\[gpio\]', or use simulated lines: driver = 'sim'"):
        await rig.trigger(lines=["X"], driver="gpiod")
    rig.triggers.clear()


@pytest.mark.needs("module:gpiod")
@pytest.mark.skipif(any(Path("/dev").glob("gpiochip*")), reason="this machine has chips")
async def test_a_machine_without_chips_says_so(rig: Rig) -> None:
    host = await rig.trigger(lines=["BCM17"], driver="gpiod")
    assert host.reports[-1] == (
        "failed",
        "BCM17: this machine has no GPIO chip (/dev/gpiochip*); plug one in, or try without: driver = 'sim'",
    )


async def test_stopping_gives_lines_back_and_waits_for_answers(rig: Rig, until: Any) -> None:
    gate = asyncio.Event()

    async def slow(event: Event) -> Response:
        await gate.wait()
        return Response()

    host = await rig.trigger(slow, lines=["X"])
    rig.pull("X", 1)
    await until(lambda: host.events)
    stopping = asyncio.ensure_future(rig.triggers.pop().stop())
    await until(lambda: rig.board.line(rig.place("X")).consumer == "")
    assert not stopping.done()
    gate.set()
    await stopping


def test_a_board_without_the_time_has_dates_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """1970, and even before: the wall clock may be behind the time since boot."""
    monkeypatch.setattr(time, "time_ns", lambda: 5 * 10**9)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 30 * 10**9)
    offset = clock.wall_offset_ns()
    assert clock.date(30 * 10**9 + offset) == datetime(1970, 1, 1, 0, 0, 5, tzinfo=timezone.utc)
    assert clock.date(20 * 10**9 + offset).year == 1969


async def test_a_clock_that_is_set_holds_for_the_next_edge(rig: Rig, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host = await rig.trigger(lines=["X"])
    real = time.time_ns
    monkeypatch.setattr(clock.time, "time_ns", lambda: real() - 30 * 365 * 86400 * 10**9)
    rig.pull("X", 1)
    await until(lambda: len(host.events) == 1)
    monkeypatch.undo()
    rig.pull("X", 0)
    await until(lambda: len(host.events) == 2)
    assert (host.events[1].timestamp - host.events[0].timestamp).days == 30 * 365


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "missing required field `lines`"),
        ({"lines": []}, "length >= 1"),
        ({"lines": [""]}, "length >= 1"),
        ({"lines": ["A\0:1"]}, "matching regex"),
        ({"lines": ["9" * 5000]}, "length <= 255"),
        ({"lines": ["A", "A"]}, "lines: A, A names one twice"),
        ({"lines": ["A"], "edges": "up"}, "Invalid enum value 'up'"),
        ({"lines": ["A"], "repeat_s": 1}, "repeat: goes with hold"),
        ({"lines": ["A"], "window_s": 1}, "window: counts one edge of each pulse; set edges = 'rising' or 'falling'"),
        ({"lines": ["A"], "window_s": 1, "edges": "rising", "hold_s": 1}, "window: counts, and hold does not go with it"),
        ({"lines": ["A"], "debounce_s": -1}, ">= 0"),
        ({"lines": ["A"], "linse": 1}, "unknown field `linse`"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_told(table: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(table, GpioSettings)
    assert said in str(caught.value)


async def test_making_an_event_is_cheap(rig: Rig) -> None:
    """20 µs were promised; a test on a busy machine can hold ten times that."""
    host = await rig.trigger(lines=["X"])
    line = rig.triggers[0]._lines[0]
    from edgehost.gpio.line import Edge

    edges = [Edge(bool(number % 2), time.monotonic_ns(), number) for number in range(1, 1001)]
    best = min(_made(line, edges) for _ in range(5))
    assert best / 1000 < 200e-6
    assert host.reports == [("running", "")]


def _made(line: Any, edges: list[Any]) -> float:
    began = time.process_time()
    for edge in edges:
        line._edge_event(edge, 0)
    return time.process_time() - began
