"""The agent's lines of one driver: who listens to which, who drives which, and that nobody does both to one line.

Made by the first trigger or output that needs it (`of`), closed when the agent ends. Looks once a second for chips that have gone
without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

from edgehost import profile
from edgehost.config import Config
from edgehost.gpio.inputs import Inputs, Listener
from edgehost.gpio.kernel import KernelDriver
from edgehost.gpio.line import Driver, InputWish, OutputWish, Place
from edgehost.gpio.outputs import Driven, LineOwner, Outputs
from edgehost.gpio.places import Places
from edgehost.gpio.safe import SafeStates
from edgehost.gpio.sim import SimBoard
from edgehost.gpio.trouble import GpioError

T = TypeVar("T")
DriverName = Literal["gpiod", "sim"]

CHECK_S = 1.0


class Sharing(Protocol):
    """What is needed of a trigger's or an output's host."""

    config: Config

    def shared(self, key: str, make: Callable[[], T]) -> T: ...


def of(host: Sharing, driver: DriverName | None) -> Pins:
    """The agent's Pins of this driver; None: the one that edgehost.toml says. Raises PluginError without gpiod."""
    name = driver or ("sim" if host.config.gpio.driver == "sim" else "gpiod")
    if name == "sim":
        board = host.shared(SIM, SimBoard)
        return host.shared("gpio-sim", lambda: _pins(board, host.config, SafeStates(None)))
    safe = host.shared(SafeStates.KEY, SafeStates.here)
    return host.shared("gpio-kernel", lambda: _pins(KernelDriver(), host.config, safe))


SIM = "gpio-sim-board"
"""Under which the agent's parts hold the SimBoard; `edgehost gpio` moves it."""


def _pins(driver: Driver, config: Config, safe: SafeStates) -> Pins:
    return Pins(driver, places(driver, config), safe)


def places(driver: Driver, config: Config) -> Places:
    """How names of lines are understood on this device."""
    return Places(driver, profile.current(config).gpio, config.gpio.chip)


class Pins:
    """See above. Not for use outside the loop it was made in."""

    def __init__(self, driver: Driver, places: Places, safe: SafeStates) -> None:
        self._places = places
        self._inputs = Inputs(driver)
        self._outputs = Outputs(driver, safe)
        self._timer: asyncio.TimerHandle | None = None

    def listen(self, name: str, wish: InputWish, listener: Listener) -> Place:
        """Hear of a line's edges from now on. Raises GpioError."""
        place = self._find(name)
        driven = self._outputs.held.get(place)
        if driven is not None:
            raise GpioError(f"{name}: {driven.owners[0].owner} drives this line; it cannot be listened to as well", "failed")
        self._inputs.join(place, name, wish, listener)
        return place

    def leave(self, place: Place, listener: Listener) -> None:
        """Hear no more of it."""
        self._inputs.leave(place, listener)

    def drive(self, name: str, wish: OutputWish, value: bool, owner: LineOwner) -> Driven:
        """Drive a line from now on, at `value` if this function does not drive it already. Raises GpioError."""
        place = self._find(name)
        heard = self._inputs.held.get(place)
        if heard is not None:
            raise GpioError(f"{name}: {heard.listeners[0].owner} listens to this line; it cannot be driven as well", "failed")
        return self._outputs.join(place, name, wish, value, owner)

    def release(self, driven: Driven, owner: LineOwner) -> None:
        """Drive it no more; the last one out leaves it at its safe level."""
        self._outputs.leave(driven, owner)

    def drain(self) -> None:
        """Read what waits now: what a timer closes must not miss edges of its time."""
        self._inputs.drain()

    async def close(self) -> None:
        """Give every line back."""
        if self._timer is not None:
            self._timer.cancel()
        self._inputs.close()
        self._outputs.close()

    def _find(self, name: str) -> Place:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_S, self._check)
        self._places.provide(name)
        return self._places.find(name)

    def _check(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_S, self._check)
        self._inputs.check()
        self._outputs.check()
