"""Lines that are driven: one request for each, shared by the outputs of one function, with the level it was last told to have.

    an output comes      no request yet              request the line at its initial level
                         the same function has it    keeps the level: an upgrade's new version comes before the old one goes;
                                                     requested anew at that level if drive or active_low differ
                         another function has it     refused, naming it
    the chip goes        every output is told; the one that asks again gets the line at the level it had
    the last one leaves  the line gets its safe level, then is released
    the agent is killed  the safe level was noted (safe.py)
Must not know what a body means.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from edgehost.gpio.line import Driver, OutputLine, OutputWish, Place
from edgehost.gpio.safe import SafeLine, SafeStates
from edgehost.gpio.trouble import GpioError, gone, refusal


class Owner(Protocol):
    """Who drives a line or a PWM channel."""

    function: str
    owner: str
    """Function and output, for messages and as the line's consumer."""

    def gone(self) -> None:
        """It has gone."""


class LineOwner(Owner, Protocol):
    """Who drives a line."""

    safe: bool | None
    """The logical level that is left behind; None: the one there is."""


class Driven:
    """One requested line."""

    def __init__(self, place: Place, name: str, wish: OutputWish, line: OutputLine, value: bool) -> None:
        self.place = place
        self.wish = wish
        self.owners: list[LineOwner] = []
        self.line = line
        self.value = value
        self._name = name
        self._pulse: asyncio.TimerHandle | None = None
        self._after = value
        """The level after the pulse, while there is one."""

    def set(self, value: bool) -> None:
        """Drive it to this level; a pulse that has not ended is forgotten. Raises GpioError."""
        self._forget_pulse()
        self._set(value)

    def pulse(self, value: bool, pulse_s: float) -> None:
        """Drive it to this level now and to the other one `pulse_s` seconds later."""
        self.set(value)
        self._after = not value
        self._pulse = asyncio.get_running_loop().call_later(pulse_s, self._end_pulse, not value)

    def end(self, value: bool | None) -> None:
        """Give the line back, at this level if one is given; a pulse ends with it. A chip that has gone has no level."""
        if self._pulse is not None:
            self._forget_pulse()
            self.value = self._after
            value = self._after if value is None else value
        try:
            if value is not None:
                self.line.set(value)
        except OSError:
            pass
        self.line.release()

    def _set(self, value: bool) -> None:
        try:
            self.line.set(value)
        except OSError as error:
            raise gone(self._name, self.place) from error
        self.value = value

    def _end_pulse(self, value: bool) -> None:
        self._pulse = None
        try:
            self._set(value)
        except GpioError:
            self.value = value  # what it gets when the chip is back

    def _forget_pulse(self) -> None:
        if self._pulse is not None:
            self._pulse.cancel()
            self._pulse = None


class Outputs:
    """Every line that this agent drives through one driver."""

    def __init__(self, driver: Driver, safe: SafeStates) -> None:
        self.held: dict[Place, Driven] = {}
        self._driver = driver
        self._safe = safe

    def join(self, place: Place, name: str, wish: OutputWish, value: bool, owner: LineOwner) -> Driven:
        """Drive the line until `leave`; at `value` if nobody drives it yet. Raises GpioError."""
        held = self.held.get(place)
        if held is not None and held.owners[0].function != owner.function:
            raise GpioError(f"{name}: {held.owners[0].owner} drives this line; one function can", "failed")
        try:
            if held is None:
                line = self._driver.output(place, wish, value, owner.owner)
                held = self.held[place] = Driven(place, name, wish, line, value)
            elif held.wish != wish:
                held.line.release()
                held.line, held.wish = self._driver.output(place, wish, held.value, owner.owner), wish
        except OSError as error:
            if held is not None:
                self._lose(held)
            raise refusal(error, name, place, self._driver) from error
        held.owners.append(owner)
        self._note(held)
        return held

    def leave(self, held: Driven, owner: LineOwner) -> None:
        """Drive it no more; the last one out leaves it at its safe level and releases it."""
        if owner in held.owners:
            held.owners.remove(owner)
            if held.owners:
                self._note(held)
            else:
                self._give_up(held, owner.safe)

    def check(self) -> None:
        """Look for chips that have gone without a word."""
        for held in tuple(self.held.values()):
            if not held.line.alive():
                self._lose(held)

    def close(self) -> None:
        """Release everything, at its safe level."""
        for held in tuple(self.held.values()):
            self._give_up(held, held.owners[-1].safe)

    def _note(self, held: Driven) -> None:
        owner = held.owners[-1]
        note = None if owner.safe is None else SafeLine(held.place, held.wish, owner.safe, owner.owner)
        self._safe.line(held.place, note)

    def _lose(self, held: Driven) -> None:
        owners = tuple(held.owners)
        held.owners.clear()
        self._give_up(held, None)
        for owner in owners:
            owner.gone()

    def _give_up(self, held: Driven, safe: bool | None) -> None:
        held.end(safe)
        if self.held.get(held.place) is held:
            del self.held[held.place]
            self._safe.line(held.place, None)
