"""The kernel's GPIO lines for `edgehost gpio`: listed, read, driven and watched by this process itself, without an agent.

A line that is in use stays its user's: the message names who that is.
"""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from edgehost.cli import terminal
from edgehost.config import Config
from edgehost.control.protocol import GpioChange, GpioLine
from edgehost.gpio.clock import wall_offset_ns
from edgehost.gpio.kernel import KernelDriver
from edgehost.gpio.line import InputLine, InputWish, LineInfo, OutputWish, Place
from edgehost.gpio.pins import places
from edgehost.gpio.trouble import GpioError, refusal

T = TypeVar("T")

_CONSUMER = "edgehost gpio"


class Chips:
    """The kernel's chips. `chip` is the one a bare number is on, else edgehost.toml says. Methods raise GpioError."""

    def __init__(self, chip: str | None, config: Path | None) -> None:
        self._driver = KernelDriver()
        self._places = places(self._driver, _config(chip, config))

    @staticmethod
    def there() -> bool:
        """Whether the kernel has any chip."""
        return any(Path("/dev").glob("gpiochip*"))

    def lines(self) -> list[GpioLine]:
        """Every line that has a name or a user. Their levels are not known: to read one is to use it."""
        try:
            every = [info for chip in self._driver.chips() for info in self._driver.lines(chip)]
        except OSError as error:
            raise refusal(error, "gpio", None, self._driver) from error
        return [_line(info) for info in every if info.name or info.consumer]

    def get(self, name: str) -> GpioLine:
        """The line's level, now."""
        place = self._places.find(name)
        info = self._asked(name, place, lambda: self._driver.line(place))
        line = self._asked(name, place, lambda: self._driver.input(place, InputWish("none"), _CONSUMER))
        try:
            return replace(_line(info), line=name, output=False, high=line.value)
        finally:
            line.release()

    def set(self, name: str, high: bool, hold_s: float | None) -> None:
        """Drive the line for so long, or until Ctrl-C. What it does then is its chip's."""
        place = self._places.find(name)
        line = self._asked(name, place, lambda: self._driver.output(place, OutputWish(), high, _CONSUMER))
        try:
            if hold_s is None:
                terminal.note(f"{name} is {'high' if high else 'low'} until Ctrl-C; the chip decides what it is then")
                signal.pause()
            else:
                time.sleep(hold_s)
        finally:
            line.release()

    def watch(self, names: list[str]) -> Iterator[GpioChange]:
        """Each change of these lines."""
        if not names:
            raise GpioError(
                "watch: name the lines of the kernel that are to be watched; `edgehost gpio list` shows them", "failed"
            )
        with ExitStack() as stack:
            poll = select.poll()
            by_fd: dict[int, tuple[str, Place, InputLine]] = {}
            for name in names:
                place = self._places.find(name)
                line = self._asked(name, place, partial(self._driver.input, place, InputWish(), _CONSUMER))
                stack.callback(line.release)
                poll.register(line.fd, select.POLLIN)
                by_fd[line.fd] = name, place, line
            while True:
                for fd, _ in poll.poll():
                    name, place, line = by_fd[fd]
                    for edge in self._asked(name, place, line.read):
                        yield GpioChange(name, edge.rising, (edge.timestamp_ns + wall_offset_ns()) / 1e9)

    def _asked(self, name: str, place: Place, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except OSError as error:
            raise refusal(error, name, place, self._driver) from error


def _config(chip: str | None, file: Path | None) -> Config:
    config = Config()
    if file is not None:
        from edgehost.config_toml import read_config

        config = read_config(file)
    return config if not chip else replace(config, gpio=replace(config.gpio, chip=chip))


def _line(info: LineInfo) -> GpioLine:
    place = f"{Path(info.place.chip).name}:{info.place.offset}"
    return GpioLine(info.name or place, place, info.consumer, info.output)
