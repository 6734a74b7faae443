"""Buttons, lamps and meters through a whole agent: simulated pins, a real worker, the local socket a person uses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from edgehost.control.client import Client, RefusedError
from edgehost.control.protocol import GpioLine, GpioPulse, GpioRead, GpioSet

if TYPE_CHECKING:
    from tests.e2e.conftest import Agent, AgentStarter, BundleMaker

PATIENCE_S = 30
COPY = """
def handler(context, event):
    return str(event.body["value"])
"""
COUNT = """
seen = {"events": 0, "order": True, "last": 0}

def handler(context, event):
    if event.trigger.kind == "control":
        return seen
    seen["events"] += 1
    seen["order"] = seen["order"] and event.body["seqno"] > seen["last"]
    seen["last"] = event.body["seqno"]
"""
BUTTON = """
[triggers.button]
kind = "gpio"
lines = ["BUTTON"]
max_in_flight = 1
"""
LED = """
[outputs.led]
kind = "gpio"
line = "LED"
"""
SIM = "[gpio]\ndriver = 'sim'\n"


class Pins:
    """What `edgehost gpio` does, without the typing."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def _ask(self, request: Any) -> list[GpioLine]:
        with Client.connect(self._agent.socket, PATIENCE_S) as client:
            return client.gpio(request)

    def set(self, line: str, high: bool) -> None:
        self._ask(GpioSet(line, high))

    def high(self, line: str) -> bool:
        return bool(self._ask(GpioRead([line]))[0].high)

    def pulse(self, line: str, count: int, frequency_hz: float) -> None:
        self._ask(GpioPulse(line, count, frequency_hz))

    def users(self) -> dict[str, str]:
        return {line.line: line.consumer for line in self._ask(GpioRead())}


def counts(agent: Agent, function: str) -> dict[str, int]:
    return dict(agent.functions()[function].triggers[0].counts)


def test_a_button_lights_a_lamp(agent: AgentStarter, bundle: BundleMaker) -> None:
    one = agent(bundle("lamp", COPY, BUTTON + LED), config=SIM)
    pins = Pins(one)
    assert pins.users() == {"BUTTON": "lamp/button", "LED": "lamp/led"}
    for level in (True, False, True):
        pins.set("BUTTON", level)
        one.wait(lambda level=level: pins.high("LED") is level, f"the lamp to be {level}")
    with pytest.raises(RefusedError, match="LED is driven by lamp/led"):
        pins.set("LED", False)


def test_twenty_thousand_edges_come_through_in_order(agent: AgentStarter, bundle: BundleMaker) -> None:
    one = agent(bundle("count", COUNT, BUTTON.replace("= 1", "= 64") + "max_waiting = 30000\n"), config=SIM)
    Pins(one).pulse("BUTTON", 10_000, 12_500)
    one.wait(lambda: one.functions()["count"].handled + sum(counts(one, "count").values()) >= 20_000, "all edges to be handled")
    status = one.functions()["count"]
    lost = counts(one, "count").get("lost", 0)
    assert status.handled == 20_000 - lost and status.failed == 0 and counts(one, "count").get("dropped", 0) == 0
    assert json.loads(one.invoke("count").body)["order"] is True


def test_a_slow_function_and_a_hundred_thousand_edges(agent: AgentStarter, bundle: BundleMaker) -> None:
    """What does not fit is dropped and counted; the agent stays small and goes on answering."""
    slow = "import time\ndef handler(context, event):\n    time.sleep(0.01)\n"
    one = agent(bundle("slow", slow, BUTTON + "max_waiting = 50\n"), bundle("lamp", COPY, LED), config=SIM)
    before = one.resident_bytes()
    Pins(one).pulse("BUTTON", 50_000, 1_000_000)
    told = counts(one, "slow")
    assert told["dropped"] + told.get("lost", 0) > 99_000
    trigger = one.functions()["slow"].triggers[0]
    assert trigger.state == "degraded" and "faster" in trigger.message
    assert one.resident_bytes() - before < 32 * 1024 * 1024
    assert one.invoke("lamp", b'{"value": 1}', "application/json").body == b"1"


def test_two_functions_hear_one_line(agent: AgentStarter, bundle: BundleMaker) -> None:
    one = agent(bundle("a", COUNT, BUTTON), bundle("b", COUNT, BUTTON), config=SIM)
    Pins(one).pulse("BUTTON", 10, 100)
    one.wait(lambda: all(one.functions()[name].handled == 20 for name in "ab"), "both to have heard all edges")


def test_an_answer_that_is_no_order_fails_and_changes_nothing(agent: AgentStarter, bundle: BundleMaker) -> None:
    code = "def handler(context, event):\n    return 'brighter' if event.body['value'] else '1'\n"
    one = agent(bundle("lamp", code, BUTTON + LED), config=SIM)
    pins = Pins(one)
    pins.set("BUTTON", True)
    one.wait_for_log("its answer could not be sent", "is no order to a line", "send 1, 0, on, off")
    assert not pins.high("LED")
    pins.set("BUTTON", False)
    one.wait(lambda: pins.high("LED"), "the lamp to be lit")


def test_a_killed_worker_leaves_the_lamp_as_it_is(agent: AgentStarter, bundle: BundleMaker) -> None:
    code = "import os\ndef handler(context, event):\n    if event.body['value']: return '1'\n    os._exit(9)\n"
    one = agent(bundle("lamp", code, BUTTON + LED), config=SIM)
    pins = Pins(one)
    pins.set("BUTTON", True)
    one.wait(lambda: pins.high("LED"), "the lamp to be lit")
    pins.set("BUTTON", False)
    one.wait_for_log("failed for good (worker_died)")
    assert pins.high("LED")


def test_simulated_pins_for_one_trigger_alone(agent: AgentStarter, bundle: BundleMaker) -> None:
    one = agent(bundle("a", COUNT, BUTTON + "driver = 'sim'\n"))
    Pins(one).set("BUTTON", True)
    one.wait(lambda: one.functions()["a"].handled == 1, "the edge to be handled")


def test_an_agent_that_simulates_nothing_says_so(agent: AgentStarter, bundle: BundleMaker) -> None:
    one = agent(bundle("a"))
    with pytest.raises(RefusedError, match="no GPIO line is simulated by this agent; start it with `edgehost run --gpio sim`"):
        Pins(one).high("BUTTON")


def test_pulses_are_counted_by_the_window(agent: AgentStarter, bundle: BundleMaker) -> None:
    code = """
    total = {"count": 0, "hz": []}

    def handler(context, event):
        if event.trigger.kind == "control":
            return total
        total["count"] += event.body["count"]
        total["hz"].append(event.body["frequency_hz"])
    """
    meter = "[triggers.flow]\nkind = 'gpio'\nlines = ['FLOW']\nedges = 'rising'\nwindow = '200ms'\n"
    one = agent(bundle("meter", code, meter), config=SIM)
    Pins(one).pulse("FLOW", 100, 200)
    told = one.wait(lambda: (seen := json.loads(one.invoke("meter").body))["count"] == 100 and seen, "100 pulses to be counted")
    assert any(150 < hz < 250 for hz in told["hz"]), told
