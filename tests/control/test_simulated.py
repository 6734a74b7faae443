"""Simulated GPIO lines over the local socket: read, pulled, pulsed and watched, as `edgehost gpio` does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgehost.control import simulated
from edgehost.control.protocol import GpioChanges, GpioLine, GpioLines, GpioPulse, GpioRead, GpioSet, GpioWatch, Ping, Refused
from edgehost.control.simulated import Simulated
from edgehost.errors import ControlError
from edgehost.gpio.line import InputWish, OutputWish, Place
from edgehost.gpio.places import Places
from edgehost.gpio.sim import SimBoard
from edgehost.profile.model import Gpio

BUTTON, LED = (Place("/dev/gpiochip0", offset) for offset in (0, 1))


@pytest.fixture
def board(host: Any) -> SimBoard:
    """What the agent's host offers: a button that a function listens to, and a lamp it drives."""
    board = SimBoard(invent=False)
    board.add("sim", ["BUTTON", "LED", "", ""])
    host.simulated = lambda: Simulated(board, Places(board, Gpio(), ""))
    return board


@pytest.fixture
def used(board: SimBoard) -> Any:
    held = board.input(BUTTON, InputWish(), "lamp/button"), board.output(LED, OutputWish(), True, "lamp/led")
    yield held
    for line in held:
        line.release()


async def ask(connect: Any, request: Any) -> Any:
    peer = await connect()
    peer.send(request)
    return await peer.reply()


async def test_lines_are_read(connect: Any, board: SimBoard, used: Any) -> None:
    button = GpioLine("BUTTON", "gpiochip0:0", "lamp/button", high=False)
    led = GpioLine("LED", "gpiochip0:1", "lamp/led", output=True, high=True)
    assert await ask(connect, GpioRead()) == GpioLines([button, led])
    assert await ask(connect, GpioRead(["gpiochip0:3", "LED"])) == GpioLines(
        [GpioLine("gpiochip0:3", "gpiochip0:3", high=False), led]
    )


async def test_an_input_is_pulled_and_its_edges_come(connect: Any, board: SimBoard, used: Any) -> None:
    assert (await ask(connect, GpioSet("BUTTON", True))).lines[0].high
    assert not (await ask(connect, GpioSet("BUTTON", False))).lines[0].high
    assert [edge.rising for edge in used[0].read()] == [True, False]


async def test_a_driven_line_is_not_pulled(connect: Any, board: SimBoard, used: Any) -> None:
    refused = await ask(connect, GpioSet("LED", False))
    assert refused == Refused("control", "LED is driven by lamp/led; read it with get or watch, and set a line nobody drives")
    assert board.high(LED)


@pytest.mark.parametrize("request_", [GpioRead(["BUTON"]), GpioSet("BUTON", True), GpioPulse("BUTON"), GpioWatch(["BUTON"])])
async def test_a_line_that_is_not_there_is_named_with_its_likes(connect: Any, board: SimBoard, request_: Any) -> None:
    refused = await ask(connect, request_)
    assert isinstance(refused, Refused) and "BUTON: no line has this name; there are BUTTON" in refused.message


async def test_a_train_of_pulses_is_whole_and_paced(connect: Any, board: SimBoard, used: Any) -> None:
    began = asyncio.get_running_loop().time()
    done = await ask(connect, GpioPulse("BUTTON", 20, 200.0))
    assert asyncio.get_running_loop().time() - began >= 0.09
    assert not done.lines[0].high
    assert [edge.rising for edge in used[0].read()] == [True, False] * 20


async def test_a_watcher_hears_each_change_until_it_goes(connect: Any, board: SimBoard, used: Any) -> None:
    peer = await connect()
    peer.send(GpioWatch(["LED"]))
    assert [line.high for line in (await peer.reply()).lines] == [True]
    board.pull(BUTTON, True)
    used[1].set(False)
    used[1].set(True)
    changes = [change for _ in range(1) for change in (await peer.reply()).changes]
    while len(changes) < 2:
        changes += (await peer.reply()).changes
    assert [(change.line, change.high) for change in changes] == [("LED", False), ("LED", True)]
    assert changes[0].time <= changes[1].time
    peer.writer.close()
    await asyncio.wait_for(_nobody_watches(board), 20)


async def _nobody_watches(board: SimBoard) -> None:
    while board._watchers:  # noqa: ASYNC110 - a test looks from outside
        await asyncio.sleep(0.005)


async def test_a_watcher_of_all_hears_unnamed_lines_too(connect: Any, board: SimBoard) -> None:
    peer = await connect()
    peer.send(GpioWatch())
    await peer.reply()
    board.pull(Place("/dev/gpiochip0", 3), True)
    reply = await peer.reply()
    assert [(change.line, change.high) for change in reply.changes] == [("gpiochip0:3", True)]


async def test_a_watcher_that_does_not_read_costs_no_memory(board: SimBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "_MOST_WAITING", 10)
    changes = Simulated(board, Places(board, Gpio(), "")).watch([])
    await anext(changes)
    for _ in range(50):
        board.pull(BUTTON, True)
        board.pull(BUTTON, False)
    told = await anext(changes)
    assert isinstance(told, GpioChanges) and len(told.changes) == 10 and told.lost == 90
    await changes.aclose()


async def test_an_agent_without_simulated_lines_says_so_and_goes_on(connect: Any, host: Any) -> None:
    def none() -> Simulated:
        raise ControlError("no GPIO line is simulated by this agent; start it with `edgehost run --gpio sim`")

    host.simulated = none
    peer = await connect()
    peer.send(GpioRead())
    assert "edgehost run --gpio sim" in (await peer.reply()).message
    peer.send(Ping())
    assert (await peer.reply()).pid
