"""`edgehost gpio` as a person types it: an agent's simulated lines, and what it says where there are none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgehost.control.simulated import Simulated
from edgehost.errors import ControlError
from edgehost.gpio.line import InputWish, OutputWish, Place
from edgehost.gpio.places import Places
from edgehost.gpio.sim import SimBoard
from edgehost.profile.model import Gpio

NO_CHIPS = pytest.mark.skipif(any(Path("/dev").glob("gpiochip*")), reason="this machine has chips")


@pytest.fixture
def board(agent: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimBoard]:
    """The agent of the socket simulates a button and a lamp."""
    board = SimBoard(invent=False)
    board.add("sim", ["BUTTON", "LED", ""])
    button = board.input(Place("/dev/gpiochip0", 0), InputWish(), "lamp/button")
    led = board.output(Place("/dev/gpiochip0", 1), OutputWish(), True, "lamp/led")
    monkeypatch.setattr(
        "tests.cli.conftest.Host.simulated", lambda self: Simulated(board, Places(board, Gpio(), "")), raising=False
    )
    yield board
    button.release()
    led.release()


@pytest.fixture
def none(agent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent of the socket simulates nothing."""

    def refuse(self: object) -> Simulated:
        raise ControlError("no GPIO line is simulated by this agent; start it with `edgehost run --gpio sim`")

    monkeypatch.setattr("tests.cli.conftest.Host.simulated", refuse, raising=False)


def test_list_shows_lines_and_their_users(cli: Any, agent: Path, board: SimBoard) -> None:
    lines = [line.rstrip() for line in cli("gpio", "list", "--socket", agent).out.splitlines()]
    assert lines == [
        "LINE    PLACE        DIRECTION  LEVEL  USED BY",
        "BUTTON  gpiochip0:0  in         0      lamp/button",
        "LED     gpiochip0:1  out        1      lamp/led",
    ]
    told = cli("gpio", "list", "--socket", agent, "--json").json
    assert told["simulated"] is True and [line["line"] for line in told["lines"]] == ["BUTTON", "LED"]


def test_set_is_read_by_get(cli: Any, agent: Path, board: SimBoard) -> None:
    for value, level in (("1", "1\n"), ("off", "0\n"), ("HIGH", "1\n")):
        assert cli("gpio", "set", "BUTTON", value, "--socket", agent).code == 0
        assert cli("gpio", "get", "BUTTON", "--socket", agent).out == level
    assert cli("gpio", "get", "gpiochip0:2", "--socket", agent, "--json").json["high"] is False


def test_a_driven_line_and_a_wrong_name_are_refused(cli: Any, agent: Path, board: SimBoard) -> None:
    driven = cli("gpio", "set", "LED", "0", "--socket", agent)
    assert driven.code == 5 and "LED is driven by lamp/led" in driven.err
    wrong = cli("gpio", "get", "BUTON", "--socket", agent)
    assert wrong.code == 5 and "there are BUTTON" in wrong.err
    level = cli("gpio", "set", "BUTTON", "maybe", "--socket", agent)
    assert level.code == 2 and "'maybe' is no level; give 0 or 1" in level.err


def test_pulse_makes_edges(cli: Any, agent: Path, board: SimBoard) -> None:
    changes: list[bool] = []
    board.watch(lambda place, high, time: changes.append(high))
    assert cli("gpio", "pulse", "BUTTON", "-n", "5", "-f", "1000", "--socket", agent).code == 0
    assert changes == [True, False] * 5


def test_watch_prints_each_change_until_it_is_ended(agent: Path, board: SimBoard, program: Any) -> None:
    command = [sys.executable, "-m", "edgehost.cli.entry", "gpio", "watch", "BUTTON", "--json", "--socket", str(agent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["high"] is False
        assert program("gpio", "set", "BUTTON", "1", "--socket", agent).code == 0
        change = json.loads(process.stdout.readline())
        assert (change["line"], change["high"]) == ("BUTTON", True)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == ""


@NO_CHIPS
def test_without_simulated_lines_and_chips_it_says_how_to_get_some(cli: Any, agent: Path, none: None, tmp_path: Path) -> None:
    told = cli("gpio", "list", "--socket", agent)
    assert told.code == 5 and "start it with `edgehost run --gpio sim`" in told.err
    told = cli("gpio", "list", "--socket", tmp_path / "nobody.sock")
    assert told.code == 4 and "neither simulated lines" in told.err and "edgehost run --gpio sim FOLDER" in told.err


@NO_CHIPS
@pytest.mark.needs("module:gpiod")
def test_chip_means_the_kernels_lines(cli: Any, agent: Path, board: SimBoard) -> None:
    for command in (("get", "3"), ("set", "3", "1"), ("watch", "3")):
        told = cli("gpio", *command, "--chip", "gpiochip0", "--socket", agent)
        assert told.code == 1 and "3: this machine has no GPIO chip" in told.err


def test_chips_without_gpiod_name_the_extra(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiod", None)
    told = cli("gpio", "list", "--chip", "gpiochip0")
    assert told.code == 3 and "pip install 'edgehost[gpio]'" in told.err


def test_it_lists_its_subcommands(cli: Any) -> None:
    told = cli("gpio", "--help")
    assert told.code == 0 and all(name in told.out for name in ("list", "get", "set", "pulse", "watch"))
