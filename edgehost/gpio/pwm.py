"""One PWM channel of the kernel, through sysfs (Documentation/ABI/testing/sysfs-class-pwm): exported, set, disabled.

Blocking writes of a few bytes to sysfs, which answers at once. Must not know what asks for a duty.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgehost.gpio.trouble import GpioError

ROOT = Path("/sys/class/pwm")
_STATE = ("enable", "duty_cycle", "period", "polarity")
Duty = Annotated[float, Meta(ge=0, le=1)]


class PwmSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`pwm = { chip = 0, channel = 0, frequency_hz = 1000 }`."""

    chip: Annotated[int, Meta(ge=0)] = 0
    """/sys/class/pwm/pwmchipN."""
    channel: Annotated[int, Meta(ge=0)] = 0
    frequency_hz: Annotated[float, Meta(ge=0.01, le=100_000_000)] = 1000.0
    polarity: Literal["normal", "inversed"] = "normal"
    initial_duty: Duty = 0.0
    """The share of each period that it is active, from the function's start to the first order."""
    safe_duty: Duty = 0.0
    """And after the function's end."""


class Pwm:
    """One channel. `open` makes it ready, disabled; every method raises GpioError. `path` is its folder once it is exported."""

    def __init__(self, settings: PwmSettings, root: Path | None = None) -> None:
        root = root or ROOT
        self._settings = settings
        self._chip = root / f"pwmchip{settings.chip}"
        self.path = self._chip / f"pwm{settings.channel}"
        self._period_ns = round(1e9 / settings.frequency_hz)

    def open(self) -> None:
        """Export the channel if nobody has, and set period and polarity."""
        if not self._chip.is_dir():
            raise GpioError(
                f"pwm: no {self._chip}; enable the board's PWM first (Raspberry Pi: dtoverlay=pwm in config.txt)", "failed"
            )
        if not self.path.is_dir():
            self._export()
        before = {name: self._read(name) for name in _STATE}
        try:
            self._set_up(before)
        except GpioError:
            self._put_back(before)
            raise

    def set(self, duty: float) -> None:
        """Be active for this share of each period, 0 to 1. At 0 it stays enabled: only so is the level its own."""
        self._write("duty_cycle", str(round(self._period_ns * duty)))
        self._write("enable", "1")

    def rest(self) -> None:
        """Go to the safe duty; disabled if that is 0."""
        self.set(self._settings.safe_duty)
        if not self._settings.safe_duty:
            self._write("enable", "0")

    def _set_up(self, before: Mapping[str, str]) -> None:
        """The kernel refuses writes while the period is 0, a duty above the period, and a polarity while the channel runs."""
        if before["enable"] == "1":
            self._write("enable", "0")
        if before["period"] != "0":
            self._write("duty_cycle", "0")
        self._write("period", str(self._period_ns))
        if before["polarity"] not in ("", self._settings.polarity):  # none: a driver that knows one polarity
            self._write("polarity", self._settings.polarity)

    def _put_back(self, before: Mapping[str, str]) -> None:
        """As it was before settings that were refused: another version may drive it, or it may rest at its safe duty."""
        for name in ("duty_cycle", "polarity", "period", "duty_cycle", "enable"):
            try:
                self._write(name, "0" if name == "duty_cycle" and before["period"] == "0" else before[name])
            except GpioError:
                continue  # the next one may still be taken

    def _export(self) -> None:
        try:
            (self._chip / "export").write_text(str(self._settings.channel))
        except OSError as error:
            raise self._refusal("export", error) from error
        if not self.path.is_dir():
            raise GpioError(f"pwm: {self.path} has not appeared after the export; look at the kernel's log")

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text().strip()
        except OSError:
            return ""

    def _write(self, name: str, value: str) -> None:
        try:
            _put(self.path / name, value)
        except OSError as error:
            raise self._refusal(f"pwm{self._settings.channel}/{name} = {value}", error) from error

    def _refusal(self, what: str, error: OSError) -> GpioError:
        if error.errno in (errno.EACCES, errno.EPERM):
            advice = "add the agent's user to the group gpio, or let a udev rule give it the files"
            return GpioError(f"pwm: no permission for {self._chip}/{what}; {advice}", "degraded")
        if error.errno == errno.EINVAL:
            return GpioError(f"pwm: {self._chip} refuses {what}; try another frequency_hz or polarity", "failed")
        if error.errno == errno.EBUSY:
            return GpioError(f"pwm: a driver in the kernel uses {self._chip} channel {self._settings.channel}; use another")
        if error.errno in (errno.ENODEV, errno.ENOENT):
            return GpioError(f"pwm: {self._chip} has no channel {self._settings.channel}, or has gone ({what})")
        return GpioError(f"pwm: {self._chip}/{what}: {error.strerror or error}")


def _put(path: Path, value: str) -> None:
    with path.open("w") as file:
        file.write(value)
