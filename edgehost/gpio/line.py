"""What every GPIO driver offers: chips, their lines, a line requested as an input or as an output. Values and contracts alone.

A driver raises OSError with the kernel's errno (EBUSY: somebody has the line; ENODEV: the chip is gone; EACCES, EINVAL ...).
Levels are logical, `active_low` applied, wherever a wish was given; a line's timestamps are CLOCK_MONOTONIC.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

Pull = Literal["as-is", "none", "up", "down"]
Edges = Literal["rising", "falling", "both"]
Drive = Literal["push-pull", "open-drain", "open-source"]

BUFFER_EDGES = 1024
"""Edges a line keeps until they are read, the most the kernel grants one line; one more pushes out the oldest
(drivers/gpio/gpiolib-cdev.c, linereq_put_event)."""


class Edge(Struct, frozen=True, gc=False):
    """One change of a line's level."""

    rising: bool
    timestamp_ns: int
    seqno: int
    """Counts the line's edges from 1 on; a gap is edges that were pushed out before they were read."""


class Chip(NamedTuple):
    """One chip. `name` (gpiochip0) may differ from one boot to the next, `label` (pinctrl-bcm2711) does not."""

    path: str
    name: str
    label: str
    size: int
    """How many lines it has."""


class Place(NamedTuple):
    """Where a line is: the path of its chip, and its offset there."""

    chip: str
    offset: int


class LineInfo(NamedTuple):
    """How a line is, without using it."""

    place: Place
    name: str
    """As the board's device tree names it; often empty."""
    consumer: str
    """Who uses it; empty if nobody does."""
    output: bool
    active_low: bool = False


class InputWish(NamedTuple):
    """How an input is to be set up."""

    edges: Edges | Literal["none"] = "both"
    """none: only the level is wanted, so the chip needs no interrupts."""
    pull: Pull = "as-is"
    active_low: bool = False
    debounce_s: float = 0.0
    """By the chip or the kernel; a driver that can't raises OSError."""


class OutputWish(NamedTuple):
    """How an output is to be set up."""

    drive: Drive = "push-pull"
    active_low: bool = False


class Line(Protocol):
    """A requested line, this process's alone until it is released."""

    @property
    def value(self) -> bool:
        """The logical level. OSError if it can't be read."""

    def alive(self) -> bool:
        """False once its chip has gone."""

    def release(self) -> None:
        """Give it back. What level an output has from then on is the chip's driver's to say."""


class InputLine(Line, Protocol):
    """A line that is listened to."""

    @property
    def fd(self) -> int:
        """Readable when there are edges to read, or when the chip has gone."""

    def read(self) -> list[Edge]:
        """The edges that wait, in order; none if there are none. OSError (ENODEV) once the chip has gone."""


class OutputLine(Line, Protocol):
    """A line that is driven."""

    def set(self, value: bool) -> None:
        """Drive it to this logical level. OSError (ENODEV) once the chip has gone or the line was given back."""


class Driver(Protocol):
    """Where chips come from."""

    def chips(self) -> list[Chip]:
        """Every chip there is now. PermissionError if there are some and none may be opened."""

    def lines(self, chip: Chip) -> list[LineInfo]: ...

    def line(self, place: Place) -> LineInfo: ...

    def input(self, place: Place, wish: InputWish, consumer: str) -> InputLine: ...

    def output(self, place: Place, wish: OutputWish, value: bool, consumer: str) -> OutputLine:
        """Drive the line, at once to the logical level `value`."""

    def provide(self, name: str, chip: str) -> None:
        """Called before a line is looked up: a driver that makes lines up makes `name` on the chip called `chip` (or on any)."""
