"""The gpio output over simulated chips: levels, pulses, the safe state, and an output without its line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehost.config import Config, Gpio
from edgehost.errors import TriggerError
from edgehost.event import Event, Response
from edgehost.gpio import pins, pwm
from edgehost.gpio.line import InputWish, Place
from edgehost.gpio.sim import SimBoard
from edgehost.triggers.gpio import GpioOutput, GpioOutputSettings
from tests.gpio import kernel_pwm

pytestmark = pytest.mark.usefixtures("whole_again")

CONFIG = Config(gpio=Gpio(driver="sim"), profile="generic-x86_64")


@dataclass
class Host:
    """One output's host."""

    agent: Any
    function_name: str = "lamp"
    name: str = "led"

    @property
    def config(self) -> Config:
        return CONFIG

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        return logging.LoggerAdapter(logging.getLogger("edgehost.test"), {})

    def shared(self, key: str, make: Callable[[], Any]) -> Any:
        return self.agent.parts[key] if key in self.agent.parts else self.agent.parts.setdefault(key, make())


@dataclass
class Rig:
    agent: Any
    board: SimBoard
    outputs: list[GpioOutput] = field(default_factory=list)

    async def output(self, function: str = "lamp", **settings: Any) -> GpioOutput:
        made = GpioOutput(msgspec.convert(settings, GpioOutputSettings), Host(self.agent, function))
        self.outputs.append(made)
        await asyncio.wait_for(made.start(), 20)
        return made

    async def end(self, output: GpioOutput) -> None:
        self.outputs.remove(output)
        await asyncio.wait_for(output.stop(), 20)

    @property
    def place(self) -> Place:
        return Place("/dev/gpiochip0", 0)

    @property
    def high(self) -> bool:
        return self.board.high(self.place)


@pytest.fixture
async def rig(agent: Any) -> AsyncIterator[Rig]:
    agent.parts[pins.SIM] = board = SimBoard()
    made = Rig(agent, board)
    yield made
    for output in list(made.outputs):
        await made.end(output)


def send(output: GpioOutput, body: bytes) -> None:
    assert output.send(Event(), Response(body=body)) is None


async def test_answers_are_levels(rig: Rig) -> None:
    output = await rig.output(line="LED")
    levels = []
    for body in (b"1", b"off", b"toggle", b"", b'{"value": 0}', b'{"toggle": true}'):
        send(output, body)
        levels.append(rig.high)
    assert levels == [True, False, True, True, False, True]


async def test_initial_and_safe_levels(rig: Rig) -> None:
    seen: list[bool] = []
    output = await rig.output(line="LED", initial="on", safe="off")
    assert rig.high
    rig.board.watch(lambda place, high, time: seen.append(high))
    await rig.end(output)
    assert seen == [False]
    assert rig.board.line(rig.place).consumer == ""


async def test_the_safe_level_is_set_before_the_line_is_let_go(rig: Rig) -> None:
    """What a line does after that is its chip's; the level it was left at must have been the safe one."""
    output = await rig.output(line="VALVE", active_low=True, safe="off")
    send(output, b"on")
    assert not rig.high
    seen: list[bool] = []
    rig.board.watch(lambda place, high, time: seen.append(high))
    await rig.end(output)
    assert seen == [True, False], "driven high, which is off here; then nobody drives it"


async def test_keep_leaves_the_level_alone(rig: Rig) -> None:
    output = await rig.output(line="LED", safe="keep")
    send(output, b"1")
    driven = rig.board.line(rig.place)
    assert driven.output and driven.consumer == "lamp/led"
    seen: list[bool] = []
    rig.board.watch(lambda place, high, time: seen.append(high))
    await rig.end(output)
    assert seen == [False], "only the letting go"


async def test_a_pulse_comes_back(rig: Rig, until: Any) -> None:
    output = await rig.output(line="BELL")
    send(output, b'{"pulse_s": 0.03}')
    assert rig.high
    await until(lambda: not rig.high)
    send(output, b'{"pulse_s": 60}')
    await rig.end(output)
    assert not rig.high


async def test_nonsense_is_refused_and_changes_nothing(rig: Rig) -> None:
    output = await rig.output(line="LED")
    send(output, b"1")
    for body in (b"maybe", b"{}", b"\xff", b'{"value": 7}', b"Traceback"):
        with pytest.raises(TriggerError, match="is no order to a line"):
            output.send(Event(), Response(body=body))
    assert rig.high


async def test_an_upgrade_does_not_blink(rig: Rig) -> None:
    old = await rig.output(line="LED")
    send(old, b"1")
    seen: list[bool] = []
    rig.board.watch(lambda place, high, time: seen.append(high))
    new = await rig.output(line="LED")
    await rig.end(old)
    assert seen == [] and rig.high
    send(new, b"0")
    assert seen == [False]


async def test_another_function_is_refused_until_the_line_is_free(rig: Rig, until: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = await rig.output(line="LED")
    second = await rig.output("other", line="LED")
    with pytest.raises(TriggerError, match="no line to drive now: LED: lamp/led drives this line; one function can"):
        second.send(Event(), Response(body=b"1"))
    await rig.end(first)
    await until(lambda: rig.board.line(rig.place).consumer == "other/led")
    send(second, b"1")
    assert rig.high
    assert "output led: there again" in caplog.text


async def test_a_line_somebody_listens_to_is_not_driven(rig: Rig) -> None:
    rig.board.provide("LED", "")
    held = rig.board.input(rig.place, InputWish(), "gpio-keys")
    output = await rig.output(line="LED")
    with pytest.raises(TriggerError, match="LED is in use by 'gpio-keys'"):
        output.send(Event(), Response(body=b"1"))
    held.release()


async def test_a_chip_that_comes_back_has_the_level_it_had(rig: Rig, until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "CHECK_S", 0.02)
    board = rig.agent.parts[pins.SIM] = rig.board = SimBoard(invent=False)
    chip = board.add("usb-adapter", ["LED"])
    output = await rig.output(line="LED")
    send(output, b"1")
    board.unplug(chip)
    with pytest.raises(TriggerError, match="its chip /dev/gpiochip0 has gone; plug it in again"):
        output.send(Event(), Response(body=b"0"))
    await until(lambda: output._output.link.why)
    board.add("usb-adapter", ["LED"])
    await until(lambda: rig.high)
    send(output, b"0")
    assert not rig.high


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A channel of a folder that looks like /sys/class/pwm."""
    monkeypatch.setattr(pwm, "ROOT", tmp_path)
    monkeypatch.setattr(pwm, "_put", kernel_pwm.put)
    return kernel_pwm.make(tmp_path / "pwmchip0" / "pwm0")


async def test_answers_are_duties(rig: Rig, channel: Path, until: Any) -> None:
    output = await rig.output(pwm={"frequency_hz": 1000})
    assert (channel / "enable").read_text() == "0"
    send(output, b"25%")
    assert ((channel / "duty_cycle").read_text(), (channel / "enable").read_text()) == ("250000", "1")
    with pytest.raises(TriggerError, match="is no order to a PWM channel"):
        output.send(Event(), Response(body=b"fast"))
    await rig.end(output)
    assert duty(channel) == "off"


def duty(channel: Path) -> str:
    return (channel / "duty_cycle").read_text() if (channel / "enable").read_text() == "1" else "off"


async def test_initial_and_safe_duties(rig: Rig, channel: Path) -> None:
    output = await rig.output(pwm={"initial_duty": 0.5, "safe_duty": 1})
    assert duty(channel) == "500000"
    await rig.end(output)
    assert duty(channel) == "1000000"


async def test_an_upgrade_keeps_the_duty(rig: Rig, channel: Path) -> None:
    old = await rig.output(pwm={})
    send(old, b"0.25")
    new = await rig.output(pwm={})
    await rig.end(old)
    assert duty(channel) == "250000"
    faster = await rig.output(pwm={"frequency_hz": 2000})
    assert ((channel / "period").read_text(), duty(channel)) == ("500000", "125000")
    await rig.end(new)
    assert duty(channel) == "125000"
    await rig.end(faster)
    assert duty(channel) == "off"


async def test_an_upgrade_whose_frequency_is_refused_leaves_the_old_one_running(rig: Rig, channel: Path) -> None:
    old = await rig.output(pwm={"safe_duty": 1})
    send(old, b"0.25")
    new = await rig.output(pwm={"frequency_hz": 0.01})
    with pytest.raises(TriggerError, match=r"no PWM channel now: pwm: .* refuses pwm0/period"):
        new.send(Event(), Response(body=b"1"))
    assert duty(channel) == "250000"
    send(old, b"0.5")
    await rig.end(old)
    assert duty(channel) == "1000000"
    await asyncio.sleep(0.5)  # the new one tries on
    assert duty(channel) == "1000000"


async def test_another_safe_duty_does_not_stop_a_channel(rig: Rig, channel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await rig.output(pwm={})
    send(old, b"0.25")
    written: list[str] = []
    monkeypatch.setattr(pwm, "_put", lambda path, value: written.append(path.name))
    await rig.output(pwm={"safe_duty": 1})
    assert written == []
    monkeypatch.undo()


async def test_a_channel_of_another_function_is_left_alone(rig: Rig, channel: Path) -> None:
    first = await rig.output(pwm={})
    send(first, b"0.25")
    other = await rig.output("fan", pwm={})
    with pytest.raises(TriggerError, match=r"lamp/led drives .*pwm0; one function can"):
        other.send(Event(), Response(body=b"1"))
    await rig.end(other)
    assert duty(channel) == "250000"


async def test_a_channel_that_goes_comes_back(rig: Rig, channel: Path, until: Any) -> None:
    output = await rig.output(pwm={})
    away = channel.rename(channel.parent / "away")
    for _ in range(2):
        with pytest.raises(TriggerError, match="has gone"):
            output.send(Event(), Response(body=b"0.5"))
        await asyncio.sleep(0)
    away.rename(channel)
    await until(lambda: not output._output.link.why)
    send(output, b"0.5")
    assert (channel / "enable").read_text() == "1"


async def test_no_channel_is_no_reason_not_to_start(rig: Rig, channel: Path) -> None:
    output = await rig.output(pwm={"chip": 7})
    with pytest.raises(TriggerError, match=r"no PWM channel now: pwm: no .*/pwmchip7; enable the board's PWM first"):
        output.send(Event(), Response(body=b"0.5"))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "give one of line, as in 'BCM27', and pwm"),
        ({"line": "LED", "pwm": {}}, "give one of line"),
        ({"line": "LED", "safe": "maybe"}, "Invalid enum value 'maybe'"),
        ({"pwm": {"frequency_hz": 0}}, ">= 0.01"),
        ({"pwm": {"safe_duty": 1.5}}, "<= 1"),
        ({"pwm": {}, "safe": "on"}, "are of lines; pwm has initial_duty and safe_duty"),
        ({"line": "LED", "level": 1}, "unknown field `level`"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_told(table: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(table, GpioOutputSettings)
    assert said in str(caught.value)
