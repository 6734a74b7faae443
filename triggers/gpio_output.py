"""A function's answers as levels of a GPIO line, or as the duty of a PWM channel: `[outputs.NAME]` of kind `gpio`.

    state      means
    away       the line is taken or its chip is not there; answers fail and are retried by the function's policy
    there      each answer's order is carried out before `send` returns
    stopped    the line has its safe level and is given back; a PWM channel has its safe duty
Who drives which line or channel is decided in edgehost/gpio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from edgehost.event import Event, Response
from edgehost.gpio import pins
from edgehost.gpio.channels import Channel, Channels
from edgehost.gpio.line import Drive, OutputWish
from edgehost.gpio.orders import Level, Pulse, duty_order, line_order
from edgehost.gpio.outputs import Driven
from edgehost.gpio.pwm import PwmSettings
from edgehost.gpio.safe import SafeStates
from edgehost.gpio.trouble import GpioError, gone
from edgehost.plugin import OutputHost
from edgehost.reconnect import Connect, Reconnect

LineName = Annotated[str, Meta(min_length=1, max_length=255, pattern="^[^\\x00]+$")]
_LINE_DEFAULTS = ("off", "off", "push-pull", False, None)


class GpioOutputSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[outputs.NAME]` with `kind = "gpio"`: `line` or `pwm`, and what goes with it."""

    line: LineName = ""
    """A header's pin (`BCM27`, `J8-13`), a line's name, or CHIP:OFFSET."""
    initial: Literal["on", "off"] = "off"
    """The level it gets when the function starts."""
    safe: Literal["on", "off", "keep"] = "off"
    """The level it gets when the function stops."""
    drive: Drive = "push-pull"
    active_low: bool = False
    """On is low."""
    pwm: PwmSettings | None = None
    driver: pins.DriverName | None = None

    def __post_init__(self) -> None:
        if bool(self.line) == (self.pwm is not None):
            raise ValueError("give one of line, as in 'BCM27', and pwm, as in { chip = 0, channel = 0, frequency_hz = 1000 }")
        if self.pwm is not None and (self.initial, self.safe, self.drive, self.active_low, self.driver) != _LINE_DEFAULTS:
            raise ValueError("pwm: initial, safe, drive, active_low and driver are of lines; pwm has initial_duty and safe_duty")


class GpioOutput:
    """See edgehost/plugin.py, Output."""

    Settings: ClassVar[type[Struct]] = GpioOutputSettings

    def __init__(self, settings: GpioOutputSettings, host: OutputHost) -> None:
        self._output = _Channel(settings.pwm, host) if settings.pwm is not None else _Line(settings, host)

    async def start(self) -> None:
        """Ask for the line; it has its initial level when this returns, unless it is away."""
        await self._output.link.start()

    def send(self, event: Event, response: Response) -> None:
        """Carry out what the body asks. Raises GpioError for nonsense, and while the line is away."""
        self._output.carry_out(response.body)

    async def stop(self) -> None:
        """Give the line its safe level and let it go."""
        await self._output.link.stop()


class _Link:
    """Keeps a device connected, and says in the log when it is not."""

    def __init__(self, host: OutputHost, connect: Connect) -> None:
        self.why = ""
        """Why there is no device now; empty while there is."""
        self._host = host
        self._asked = asyncio.Event()
        self._reconnect = Reconnect(connect, self._away)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once the device was asked for, with whatever answer."""
        self._task = asyncio.create_task(self._reconnect.run(), name=f"gpio output {self._host.name}")
        await self._asked.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def there(self) -> None:
        """The device is connected."""
        if self.why:
            self._host.log.info("output %s: there again", self._host.name)
        self.why = ""
        self._asked.set()

    def _away(self, reason: str) -> None:
        if reason != self.why:
            self._host.log.warning("output %s: %s", self._host.name, reason)
        self.why = reason
        self._asked.set()


class _Line:
    """A line: driven for as long as it is there."""

    def __init__(self, settings: GpioOutputSettings, host: OutputHost) -> None:
        self.function = host.function_name
        self.owner = f"{host.function_name}/{host.name}"
        self.link = _Link(host, self._connect)
        self._settings = settings
        self.safe = {"on": True, "off": False, "keep": None}[settings.safe]
        self._wish = OutputWish(settings.drive, settings.active_low)
        self._level = settings.initial == "on"
        self._pins = pins.of(host, settings.driver)
        self._driven: Driven | None = None
        self._gone = asyncio.Event()

    async def _connect(self, settled: Callable[[], None]) -> None:
        self._gone.clear()
        driven = self._driven = self._pins.drive(self._settings.line, self._wish, self._level, self)
        settled()
        self.link.there()
        try:
            await self._gone.wait()
        finally:
            self._driven = None
            self._level = driven.value
            self._pins.release(driven, self)
        raise gone(self._settings.line, driven.place)

    def gone(self) -> None:
        """See edgehost/gpio/outputs.py, Owner."""
        self._gone.set()

    def carry_out(self, body: bytes) -> None:
        """What the body asks of the line."""
        order = line_order(body)
        if order is None:
            return
        if self._driven is None:
            raise GpioError(f"no line to drive now: {self.link.why}")
        if isinstance(order, Pulse):
            self._driven.pulse(order.value, order.pulse_s)
        else:
            self._driven.set(order.value if isinstance(order, Level) else not self._driven.value)


class _Channel:
    """A PWM channel. sysfs says nothing when it goes, so the next order notices."""

    def __init__(self, settings: PwmSettings, host: OutputHost) -> None:
        self.function = host.function_name
        self.owner = f"{host.function_name}/{host.name}"
        self.link = _Link(host, self._connect)
        self._settings = settings
        self._duty = settings.initial_duty
        safe = host.shared(SafeStates.KEY, SafeStates.here)
        self._channels = host.shared(Channels.KEY, lambda: Channels(safe))
        self._channel: Channel | None = None
        self._gone = asyncio.Event()

    async def _connect(self, settled: Callable[[], None]) -> None:
        self._gone.clear()
        channel = self._channel = self._channels.join(self._settings, self._duty, self)
        settled()
        self.link.there()
        try:
            await self._gone.wait()
        finally:
            self._channel = None
            self._duty = channel.duty
            self._channels.leave(channel, self)
        assert channel.trouble is not None
        raise channel.trouble

    def gone(self) -> None:
        """See edgehost/gpio/outputs.py, Owner."""
        self._gone.set()

    def carry_out(self, body: bytes) -> None:
        """Be active for the share of each period that the body says."""
        duty = duty_order(body)
        if duty is None:
            return
        if self._channel is None or self._channel.trouble is not None:
            raise GpioError(f"no PWM channel now: {self._channel.trouble if self._channel is not None else self.link.why}")
        self._channels.set(self._channel, duty)
