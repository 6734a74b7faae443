"""Chips in memory, for a laptop without pins and for tests: the same values, buffers and refusals as the kernel's.

A line's level is what drives it, the first of these that does: the function whose output it is; the wire, moved by `pull` (and so
by `edgehost gpio set`); the pull resistor its input asked for; else it is low. Chips and named lines appear when a function first
asks for them. No threads: it is moved by the loop that reads it.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable

from edgehost.gpio.line import BUFFER_EDGES, Chip, Edge, InputWish, LineInfo, OutputWish, Place

LINES = 64
"""Of a chip that was made because somebody asked for it."""

Changed = Callable[[Place, bool, int], None]
"""Told of each new level of a line: where, whether it is high, and when (CLOCK_MONOTONIC, ns)."""


class _Wire:
    """One line of a chip: what drives it, and who has requested it."""

    __slots__ = ("bias", "driven", "holder", "level", "name", "outside", "place")

    def __init__(self, place: Place, name: str) -> None:
        self.place = place
        self.name = name
        self.outside: bool | None = None
        self.bias = False
        self.driven: bool | None = None
        self.level = False
        self.holder: SimInput | SimOutput | None = None


class SimBoard:
    """Simulated chips; see edgehost/gpio/line.py, Driver. `invent`: chips and lines that a function names are made up."""

    def __init__(self, invent: bool = True) -> None:
        self._invent = invent
        self._chips: dict[str, tuple[Chip, list[_Wire]]] = {}
        self._watchers: list[Changed] = []

    def add(self, label: str, names: list[str] | int = LINES) -> Chip:
        """One more chip, or one that was unplugged: with so many lines, or with lines of these names ("" for none)."""
        named = [""] * names if isinstance(names, int) else names
        number = next(number for number in range(len(self._chips) + 1) if f"/dev/gpiochip{number}" not in self._chips)
        chip = Chip(f"/dev/gpiochip{number}", f"gpiochip{number}", label, len(named))
        self._chips[chip.path] = chip, [_Wire(Place(chip.path, offset), name) for offset, name in enumerate(named)]
        return chip

    def unplug(self, chip: Chip) -> None:
        """As if it were pulled out: its requests end, what waits unread is lost."""
        for wire in self._chips.pop(chip.path)[1]:
            if wire.holder is not None:
                wire.holder.lose()

    async def close(self) -> None:
        """Nothing to end: requests are their holders' to release."""

    def pull(self, place: Place, high: bool) -> None:
        """Drive the line from outside. PermissionError if it is an output: two would drive it against each other."""
        wire = self._wire(place)
        if wire.driven is not None:
            raise PermissionError(errno.EPERM, "it is an output here")
        wire.outside = high
        self._settle(wire)

    def watch(self, changed: Changed) -> Callable[[], None]:
        """Tell of each change from now on; call what is returned to end it."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def high(self, place: Place) -> bool:
        """The line's level, as a wire has it: `active_low` plays no part."""
        return self._wire(place).level

    def chips(self) -> list[Chip]:
        return [chip for chip, _ in self._chips.values()]

    def lines(self, chip: Chip) -> list[LineInfo]:
        return [self._info(wire) for wire in self._wires(chip.path)]

    def line(self, place: Place) -> LineInfo:
        return self._info(self._wire(place))

    def input(self, place: Place, wish: InputWish, consumer: str) -> SimInput:
        wire = self._free(place)
        if wish.debounce_s:
            raise OSError(errno.EOPNOTSUPP, "a simulated line has no debounce of its own")
        wire.bias = wish.pull == "up"
        self._settle(wire)
        wire.holder = SimInput(wire, wish, consumer, self._let_go)
        return wire.holder

    def output(self, place: Place, wish: OutputWish, value: bool, consumer: str) -> SimOutput:
        wire = self._free(place)
        wire.holder = SimOutput(wire, wish, consumer, self._settle, self._let_go)
        wire.holder.set(value)
        return wire.holder

    def provide(self, name: str, chip: str) -> None:
        """Make up what a function names: the chip, and there a line of that name (none for a number)."""
        if not self._invent:
            return
        there = next((made for made, _ in self._chips.values() if chip in (made.path, made.name, made.label)), None)
        if there is None:
            if not chip and name and any(wire.name == name for _, wires in self._chips.values() for wire in wires):
                return
            there = next(iter(self.chips()), None) if not chip else None
            there = there or self.add(chip or "sim")
        wires = self._wires(there.path)
        if name and not name.isdecimal() and all(wire.name != name for wire in wires):
            free = next((wire for wire in wires if not wire.name and wire.holder is None), None)
            if free is not None:
                free.name = name

    def _wires(self, path: str) -> list[_Wire]:
        if path not in self._chips:
            raise OSError(errno.ENODEV, "no such chip")
        return self._chips[path][1]

    def _wire(self, place: Place) -> _Wire:
        wires = self._wires(place.chip)
        if not 0 <= place.offset < len(wires):
            raise OSError(errno.EINVAL, "no such line")
        return wires[place.offset]

    def _free(self, place: Place) -> _Wire:
        wire = self._wire(place)
        if wire.holder is not None:
            raise OSError(errno.EBUSY, "the line is in use")
        return wire

    def _info(self, wire: _Wire) -> LineInfo:
        holder = wire.holder
        output = isinstance(holder, SimOutput)
        return LineInfo(wire.place, wire.name, holder.consumer if holder else "", output, holder.active_low if holder else False)

    def _let_go(self, wire: _Wire) -> None:
        wire.holder = wire.driven = None
        wire.bias = False
        if wire.place.chip in self._chips and self._wire(wire.place) is wire:
            self._settle(wire)

    def _settle(self, wire: _Wire) -> None:
        """Work out the level anew, and tell whoever listens if it has changed."""
        level = wire.driven
        if level is None:
            level = wire.outside if wire.outside is not None else wire.bias
        if level == wire.level:
            return
        wire.level = level
        now = time.monotonic_ns()
        if isinstance(wire.holder, SimInput):
            wire.holder.change(level, now)
        for changed in tuple(self._watchers):
            changed(wire.place, level, now)


class SimInput:
    """See edgehost/gpio/line.py, InputLine."""

    def __init__(self, wire: _Wire, wish: InputWish, consumer: str, let_go: Callable[[_Wire], None]) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.consumer = consumer
        self.active_low = wish.active_low
        self._wire = wire
        self._let_go = let_go
        self._edges = wish.edges
        self._waiting: deque[Edge] = deque(maxlen=BUFFER_EDGES)
        self._count = 0
        self._gone = False

    @property
    def value(self) -> bool:
        self._demand()
        return self._wire.level != self.active_low

    def alive(self) -> bool:
        return not self._gone

    def read(self) -> list[Edge]:
        self._demand()
        if not self._waiting:
            return []
        os.eventfd_read(self.fd)
        edges = list(self._waiting)
        self._waiting.clear()
        return edges

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._let_go(self._wire)

    def change(self, high: bool, timestamp_ns: int) -> None:
        """The line has this level now."""
        rising = high != self.active_low
        if self._edges != "both" and rising != (self._edges == "rising"):
            return
        self._count += 1
        if not self._waiting:
            os.eventfd_write(self.fd, 1)
        self._waiting.append(Edge(rising, timestamp_ns, self._count))

    def lose(self) -> None:
        """The chip has gone."""
        self._gone = True
        self._waiting.clear()
        os.eventfd_write(self.fd, 1)

    def _demand(self) -> None:
        if self._gone:
            raise OSError(errno.ENODEV, "the chip has gone")


class SimOutput:
    """See edgehost/gpio/line.py, OutputLine."""

    def __init__(
        self,
        wire: _Wire,
        wish: OutputWish,
        consumer: str,
        settle: Callable[[_Wire], None],
        let_go: Callable[[_Wire], None],
    ) -> None:
        self.consumer = consumer
        self.active_low = wish.active_low
        self._wire = wire
        self._settle = settle
        self._let_go = let_go
        # An open output drives one of the two levels; at the other the line is as if nobody drove it.
        self._undriven = {"push-pull": None, "open-drain": True, "open-source": False}[wish.drive]
        self._gone = False

    @property
    def value(self) -> bool:
        self._demand()
        return self._wire.level != self.active_low

    def alive(self) -> bool:
        return not self._gone

    def set(self, value: bool) -> None:
        self._demand()
        if self._wire.holder is not self:
            raise OSError(errno.ENODEV, "the line was given back")
        high = value != self.active_low
        self._wire.driven = None if high is self._undriven else high
        self._settle(self._wire)

    def release(self) -> None:
        if self._wire.holder is self:
            self._let_go(self._wire)

    def lose(self) -> None:
        """The chip has gone."""
        self._gone = True

    def _demand(self) -> None:
        if self._gone:
            raise OSError(errno.ENODEV, "the chip has gone")
