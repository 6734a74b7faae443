"""What a killed agent leaves: a note of its lines and channels while it drives them, and safe levels once it is applied."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehost.gpio import pwm
from edgehost.gpio.channels import Channels
from edgehost.gpio.line import OutputWish, Place
from edgehost.gpio.pins import Pins
from edgehost.gpio.pwm import PwmSettings
from edgehost.gpio.safe import CONSUMER, Note, SafeLine, SafeStates, apply, note_file
from edgehost.gpio.sim import SimBoard
from edgehost.state import StateFile
from tests.gpio import kernel_pwm

Kill = Callable[[], None]


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A channel of a folder that looks like /sys/class/pwm."""
    monkeypatch.setattr(pwm, "ROOT", tmp_path)
    monkeypatch.setattr(pwm, "_put", kernel_pwm.put)
    return kernel_pwm.make(tmp_path / "pwmchip0" / "pwm0")


async def test_the_note_says_what_is_driven_now(pins: Pins, line: Place, note: StateFile[Note], ear: Any) -> None:
    assert note.load() is None
    off, on, keep = ear("f/off"), ear("f/on"), ear("f/keep")
    on.safe, keep.safe = True, None
    wish = OutputWish("open-drain", active_low=True)
    first = pins.drive("SENSOR_A", wish, True, off)
    second = pins.drive("RELAY_1", OutputWish(), True, on)
    third = pins.drive("RELAY_2", OutputWish(), True, keep)
    here, relay = SafeLine(line, wish, False, "f/off"), SafeLine(Place("/dev/gpiochip1", 0), OutputWish(), True, "f/on")
    assert note.load() == Note([here, relay])
    pins.release(first, off)
    pins.release(third, keep)
    assert note.load() == Note([relay])
    pins.release(second, on)
    assert not note.path.exists()


async def test_of_two_versions_the_one_that_stays_is_noted(pins: Pins, note: StateFile[Note], ear: Any) -> None:
    old, new = ear("f/led"), ear("f/led")
    new.safe = True
    driven = pins.drive("RELAY_1", OutputWish(), True, old)
    pins.drive("RELAY_1", OutputWish(), True, new)
    assert [line.value for line in note.load().lines] == [True]
    pins.release(driven, new)
    assert [line.value for line in note.load().lines] == [False]
    pins.release(driven, old)


async def test_an_agent_that_ends_in_order_leaves_safe_levels_and_no_note(
    board: SimBoard, line: Place, pins: Pins, note: StateFile[Note], ear: Any
) -> None:
    levels: list[bool] = []
    pins.drive("SENSOR_A", OutputWish(), True, ear())
    board.watch(lambda place, high, time: levels.append(high))
    await pins.close()
    assert levels == [False] and not note.path.exists()


def test_applying_drives_each_line_to_its_safe_level(board: SimBoard, line: Place, note: StateFile[Note]) -> None:
    seen: list[tuple[Place, bool, str]] = []
    board.watch(lambda place, high, time: seen.append((place, high, board.line(place).consumer)))
    relay = Place("/dev/gpiochip1", 0)
    note.save(Note([SafeLine(line, OutputWish(active_low=True), False, "f/a"), SafeLine(relay, OutputWish(), True, "f/b")]))
    assert apply(note, lambda: board) == [
        "/dev/gpiochip0 line 3 of f/a: off, its safe level",
        "/dev/gpiochip1 line 0 of f/b: on, its safe level",
    ]
    assert seen[0] == (line, True, CONSUMER)
    assert (relay, True, CONSUMER) in seen
    assert not note.path.exists()
    assert apply(note, lambda: board) == []


def test_what_cannot_be_set_does_not_keep_the_rest(board: SimBoard, line: Place, note: StateFile[Note]) -> None:
    gone = SafeLine(Place("/dev/gpiochip9", 0), OutputWish(), False, "f/gone")
    note.save(Note([gone, SafeLine(line, OutputWish(), True, "f/a")], [PwmSettings(chip=250)]))
    first, second, third = apply(note, lambda: board)
    assert "of f/gone: not set to its safe level: " in first and "no such chip" in first
    assert second.endswith("of f/a: on, its safe level")
    assert "pwmchip250" in third


def test_channels_are_noted_and_set(channel: Path, note: StateFile[Note], safe: SafeStates, ear: Any) -> None:
    settings, owner = PwmSettings(safe_duty=0.25), ear("f/fan")
    channels = Channels(safe)
    made = channels.join(settings, 0.5, owner)
    assert note.load() == Note(pwm=[settings])
    assert apply(note, SimBoard) == ["pwmchip0 channel 0: 0.25, its safe duty"]
    assert ((channel / "duty_cycle").read_text(), (channel / "enable").read_text()) == ("250000", "1")
    channels.leave(made, owner)
    assert not note.path.exists()


async def test_a_note_that_cannot_be_written_is_told_and_costs_nothing(
    board: SimBoard, pins: Pins, note: StateFile[Note], ear: Any, caplog: pytest.LogCaptureFixture
) -> None:
    note.path.with_name("gpio-safe.json.new").mkdir()
    driven = pins.drive("RELAY_1", OutputWish(), True, ear())
    assert "safe levels are not noted" in caplog.text
    assert driven.value


def test_a_note_is_kept_only_where_somebody_reads_it() -> None:
    assert note_file({}) is None
    file = note_file({"RUNTIME_DIRECTORY": "/run/edgehost:/run/other"})
    assert file is not None and str(file.path) == "/run/edgehost/gpio-safe.json"


def run(folder: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RUNTIME_DIRECTORY"}
    if folder:
        environment["RUNTIME_DIRECTORY"] = folder
    command = [sys.executable, "-m", "edgehost.cli.entry", "gpio", "safe"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_the_command_applies_the_note_and_removes_it(tmp_path: Path) -> None:
    done = run(str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    file = tmp_path / "gpio-safe.json"
    file.write_bytes(msgspec.json.encode(Note([SafeLine(Place("/dev/gpiochip250", 1), OutputWish(), False, "f/led")])))
    done = run(str(tmp_path))
    assert done.returncode == 0 and "/dev/gpiochip250 line 1 of f/led: not set to its safe level" in done.stderr
    assert not file.exists()
    file.write_text("{")
    done = run(str(tmp_path))
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_the_command_is_for_the_service(tmp_path: Path) -> None:
    done = run("")
    assert done.returncode == 2 and "RUNTIME_DIRECTORY is not set" in done.stderr
