"""PWM channels that are driven: one for each, shared by the outputs of one function, with the duty it was last told to have.

    an output comes      nobody has it               exported and set up, at its initial duty
                         the same function has it    keeps its duty: an upgrade's new version comes before the old one goes;
                                                     set up anew at that duty if frequency or polarity differ, and left as
                                                     it was if the chip refuses that
                         another function has it     refused, naming it
    an order fails       every output is told; the one that asks again has it set up at the duty it had
    the last one leaves  it gets its safe duty, and is disabled if that is 0
    the agent is killed  the safe duty was noted (safe.py)
Must not know what a body means.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edgehost.gpio.outputs import Owner
from edgehost.gpio.pwm import Pwm, PwmSettings
from edgehost.gpio.safe import SafeStates
from edgehost.gpio.trouble import GpioError

_log = logging.getLogger("edgehost.gpio")


class Channel:
    """One channel, set up. Raises GpioError. `duty` is the share of each period that it is active, 0 to 1."""

    def __init__(self, settings: PwmSettings, duty: float) -> None:
        self.owners: list[Owner] = []
        self.duty = duty
        self.pwm = self._opened(settings)
        self.settings = settings
        self.trouble: GpioError | None = None
        """What ended it."""

    def change(self, settings: PwmSettings) -> None:
        """Go on with these settings. Raises GpioError, and goes on as before, if the chip refuses them."""
        if (settings.frequency_hz, settings.polarity) != (self.settings.frequency_hz, self.settings.polarity):
            self._opened(settings)
        self.pwm, self.settings = Pwm(settings), settings

    def _opened(self, settings: PwmSettings) -> Pwm:
        pwm = Pwm(settings)
        pwm.open()
        if self.duty:
            pwm.set(self.duty)
        return pwm


class Channels:
    """Every PWM channel that this agent drives."""

    KEY = "gpio-pwm"

    def __init__(self, safe: SafeStates) -> None:
        self._safe = safe
        self._held: dict[Path, Channel] = {}

    def join(self, settings: PwmSettings, duty: float, owner: Owner) -> Channel:
        """Drive the channel until `leave`; at `duty` if nobody drives it yet. Raises GpioError."""
        path = Pwm(settings).path
        held = self._held.get(path)
        if held is not None and held.owners[0].function != owner.function:
            raise GpioError(f"pwm: {held.owners[0].owner} drives {path}; one function can", "failed")
        if held is None:
            held = self._held[path] = Channel(settings, duty)
        else:
            held.change(settings)
        held.owners.append(owner)
        self._safe.pwm(path, settings)
        return held

    def set(self, channel: Channel, duty: float) -> None:
        """Be active for this share of each period. Raises GpioError."""
        channel.duty = duty
        try:
            channel.pwm.set(duty)
        except GpioError as error:
            self._lose(channel, error)
            raise

    def leave(self, channel: Channel, owner: Owner) -> None:
        """Drive it no more; the last one out leaves it at its safe duty."""
        if owner in channel.owners:
            channel.owners.remove(owner)
            if not channel.owners:
                self._give_up(channel)

    async def close(self) -> None:
        """Leave all of them at their safe duties."""
        for channel in tuple(self._held.values()):
            self._give_up(channel)

    def _lose(self, channel: Channel, error: GpioError) -> None:
        """It stays noted: whatever it does now, it is to have its safe duty when the agent ends."""
        channel.trouble = error
        owners = tuple(channel.owners)
        channel.owners.clear()
        del self._held[channel.pwm.path]
        for owner in owners:
            owner.gone()

    def _give_up(self, channel: Channel) -> None:
        del self._held[channel.pwm.path]
        try:
            channel.pwm.rest()
        except GpioError as error:
            _log.warning("it has not got its safe duty: %s", error)
        else:
            self._safe.pwm(channel.pwm.path, None)
