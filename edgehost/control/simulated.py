"""What `edgehost gpio` asks of the agent: its simulated lines read, pulled, pulsed and watched, by the names functions use.

Levels are the wire's: high or low, whatever a function's `active_low` makes of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator

from edgehost.control.protocol import GpioChange, GpioChanges, GpioLine, GpioLines, GpioPulse
from edgehost.errors import ControlError
from edgehost.gpio.clock import wall_offset_ns
from edgehost.gpio.line import LineInfo, Place
from edgehost.gpio.places import Places
from edgehost.gpio.sim import SimBoard

_MOST_WAITING = 10_000
"""Changes kept for a watcher that does not read; the oldest go first, and are counted."""
_TURN_S = 0.001
"""A train of pulses faster than this is made of bursts, one each turn."""
_BURST = 256
"""The agent goes on between bursts of this many edges, however fast they are asked for."""


class Simulated:
    """A hand on the simulated lines. Its methods raise GpioError for a line that is not there."""

    def __init__(self, board: SimBoard, places: Places) -> None:
        self._board = board
        self._places = places

    def read(self, names: list[str]) -> GpioLines:
        """How these lines are; without names every line that has a name or a user."""
        if names:
            return GpioLines([self._line(self._board.line(self._places.find(name)), name) for name in names])
        every = [info for chip in self._board.chips() for info in self._board.lines(chip)]
        return GpioLines([self._line(info, "") for info in every if info.name or info.consumer])

    def pull(self, name: str, high: bool) -> GpioLines:
        """Pull a line from outside. Raises ControlError for one that a function drives."""
        self._pull(name, self._places.find(name), high)
        return self.read([name])

    def _pull(self, name: str, place: Place, high: bool) -> None:
        try:
            self._board.pull(place, high)
        except PermissionError:
            consumer = self._board.line(place).consumer
            raise ControlError(
                f"{name} is driven by {consumer}; read it with get or watch, and set a line nobody drives"
            ) from None

    async def pulse(self, asked: GpioPulse) -> GpioLines:
        """Pull a line to the other level and back, `count` times, evenly."""
        name, place = asked.line, self._places.find(asked.line)
        high = self._board.high(place)
        half_s, began = 0.5 / asked.frequency_hz, time.monotonic()
        for number in range(2 * asked.count):
            wait_s = began + number * half_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(max(wait_s, _TURN_S))
            elif number % _BURST == 0:
                await asyncio.sleep(0)
            self._pull(name, place, high if number % 2 else not high)
        return self.read([name])

    async def watch(self, names: list[str]) -> AsyncGenerator[GpioLines | GpioChanges, None]:
        """How the lines are, then each change, until nobody asks any more; without names of every line."""
        places = {self._places.find(name): name for name in names}
        waiting: deque[GpioChange] = deque(maxlen=_MOST_WAITING)
        came, seen = asyncio.Event(), 0

        def changed(place: Place, high: bool, monotonic_ns: int) -> None:
            nonlocal seen
            if not places or place in places:
                name = places.get(place) or self._line(self._board.line(place), "").line
                waiting.append(GpioChange(name, high, (monotonic_ns + wall_offset_ns()) / 1e9))
                seen += 1
                came.set()

        unwatch = self._board.watch(changed)
        try:
            yield self.read(names)
            while True:
                await came.wait()
                came.clear()
                lost, seen = seen - len(waiting), 0
                changes = list(waiting)
                waiting.clear()
                yield GpioChanges(changes, lost)
        finally:
            unwatch()

    def _line(self, info: LineInfo, name: str) -> GpioLine:
        chip = next(chip for chip in self._board.chips() if chip.path == info.place.chip)
        return GpioLine(
            name or info.name or f"{chip.name}:{info.place.offset}",
            f"{chip.name}:{info.place.offset}",
            info.consumer,
            info.output,
            self._board.high(info.place),
        )
