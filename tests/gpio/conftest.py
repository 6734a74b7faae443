"""Simulated boards, and who listens to their lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgehost.gpio.line import Chip, Edge, Place
from edgehost.gpio.pins import Pins
from edgehost.gpio.places import Places
from edgehost.gpio.safe import Note, SafeStates
from edgehost.gpio.sim import SimBoard
from edgehost.profile.model import Gpio
from edgehost.state import StateFile

HEADER = Gpio(chips=("pinctrl-sim",), lines={"BCM3": 3, "BCM4": 4}, headers={"J8": ("3V3", "BCM3", "BCM4")})
DEADLINE_S = 20


@dataclass
class Ear:
    """Listens to a line, or drives one, and remembers what it was told."""

    owner: str = "f/t"
    heard: list[Edge] = field(default_factory=list)
    lost: int = 0
    left: int = 0
    safe: bool | None = False

    @property
    def function(self) -> str:
        return self.owner.partition("/")[0]

    def edges(self, edges: list[Edge], lost: int) -> None:
        self.heard += edges
        self.lost += lost

    def gone(self) -> None:
        self.left += 1

    @property
    def rising(self) -> list[bool]:
        return [edge.rising for edge in self.heard]


@pytest.fixture
def ear() -> Callable[[str], Ear]:
    return Ear


@pytest.fixture
def board() -> SimBoard:
    """Two chips that have the lines they have: `pinctrl-sim` of eight, and a USB adapter whose lines have names."""
    board = SimBoard(invent=False)
    board.add("pinctrl-sim", ["", "ID_SD", "", "SENSOR_A", "", "", "", "TWICE"])
    board.add("usb-adapter", ["RELAY_1", "RELAY_2", "TWICE", "23"])
    return board


@pytest.fixture
def chip(board: SimBoard) -> Chip:
    return board.chips()[0]


@pytest.fixture
def line(chip: Chip) -> Place:
    """Line 3 of the first chip, SENSOR_A."""
    return Place(chip.path, 3)


@pytest.fixture
def note(tmp_path: Path) -> StateFile[Note]:
    """Where it is noted what driven lines fall to."""
    return StateFile(tmp_path / "gpio-safe.json", Note)


@pytest.fixture
def safe(note: StateFile[Note]) -> SafeStates:
    return SafeStates(note)


@pytest.fixture
async def pins(board: SimBoard, safe: SafeStates) -> AsyncIterator[Pins]:
    made = Pins(board, Places(board, HEADER, ""), safe)
    yield made
    await made.close()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """`await until(lambda: condition)`: return as soon as it holds, fail after a generous deadline."""

    async def wait(true: Callable[[], object]) -> None:
        async def poll() -> None:
            while not true():  # noqa: ASYNC110 - a test looks from outside; there is nothing to wait on
                await asyncio.sleep(0.005)

        await asyncio.wait_for(poll(), DEADLINE_S)

    return wait
