"""Where the line is that somebody means: by chip and offset, by the name it has on its chip, or by the board's header.

    "gpiochip0:17", "/dev/gpiochip0:17", "pinctrl-bcm2711:17", "pinctrl-bcm2711:SENSOR_A"     chip by name, path or label
    "BCM17", "J8-11"                                                                          a pin of the board's profile
    "SENSOR_A"                                                                                a line's name, on any chip
    "17"                                                                                      on `[gpio] chip`, or the only chip
Asked anew for every connection: chips come and go, and their numbers change. So do names: what a kernel writes behind a pin's, as
in "P8_35 [hdmi]", is what another writes otherwise, so a pin of the profile is found by the part before it too.
"""

from __future__ import annotations

from pathlib import Path

from edgehost.gpio.line import Chip, Driver, LineInfo, Place
from edgehost.gpio.trouble import GpioError, refusal, unknown
from edgehost.profile.model import Gpio as Header


class Places:
    """Finds lines on the chips of one driver. `chip` is `[gpio] chip` of edgehost.toml, `header` the board profile's pins."""

    def __init__(self, driver: Driver, header: Header, chip: str) -> None:
        self._driver = driver
        self._header = header
        self._default = chip

    def find(self, line: str) -> Place:
        """The place of `line`. Raises GpioError: no such chip or line, several of that name, or no permission."""
        try:
            return self._find(line)
        except OSError as error:
            raise refusal(error, line, None, self._driver) from error

    def provide(self, line: str) -> None:
        """Let the driver make up what `line` means, where it makes lines up."""
        chip, name = self._split(line)
        self._driver.provide(name, chip)

    def _split(self, line: str) -> tuple[str, str]:
        """The chip's name (empty: any) and the line's name or offset there, as the board's header and the text say."""
        pin = self._header.find(line)
        if pin is not None:
            return pin.chip, pin.name or str(pin.offset)
        chip, _, name = line.rpartition(":")
        if not chip and name.isdecimal():
            return self._default, name
        return chip, name

    def _find(self, line: str) -> Place:
        chip_name, name = self._split(line)
        chips = self._driver.chips()
        if not chips:
            raise GpioError(
                f"{line}: this machine has no GPIO chip (/dev/gpiochip*); plug one in, or try without: driver = 'sim'", "failed"
            )
        if chip_name:
            return self._on(_chip(line, chip_name, chips), name, line)
        if name.isdecimal():
            return self._on(_only(line, chips), name, line)
        return self._named(name, line, chips)

    def _on(self, chip: Chip, name: str, line: str) -> Place:
        if name.isdecimal():
            if int(name) >= chip.size:
                raise GpioError(f"{line}: {chip.name} ({chip.label}) has lines 0 to {chip.size - 1}", "failed")
            return Place(chip.path, int(name))
        return self._named(name, line, [chip])

    def _named(self, name: str, line: str, chips: list[Chip]) -> Place:
        lines = [info for chip in chips for info in self._driver.lines(chip)]
        found = [info.place for info in lines if info.name == name] or self._alike(line, lines)
        if len(found) > 1:
            several = ", ".join(f"{Path(place.chip).name}:{place.offset}" for place in found)
            raise GpioError(f"{line}: {len(found)} lines have this name; use one of {several}", "failed")
        if not found:
            known = [*self._header.pins, *(info.name for info in lines)]
            raise unknown(line, "no line has this name", known, "`edgehost gpio list` shows all")
        return found[0]

    def _alike(self, line: str, lines: list[LineInfo]) -> list[Place]:
        """Where `line` is a pin of the board: the lines that are called as it, but for what the kernel writes behind."""
        pin = self._header.find(line)
        name = _bare(pin.name) if pin is not None else ""
        names = (name, *self._header.renamed.get(name, ())) if name else ()
        return [info.place for info in lines if _bare(info.name) in names]


def _bare(name: str) -> str:
    return name.partition(" [")[0]


def _chip(line: str, name: str, chips: list[Chip]) -> Chip:
    """By name, path (an older name may be a link to it) or label."""
    path = str(Path(f"/dev/{name.removeprefix('/dev/')}").resolve())
    found = [chip for chip in chips if name in (chip.name, chip.label) or path == chip.path]
    if not found:
        known = [text for chip in chips for text in (chip.name, chip.label)]
        raise unknown(line, f"no chip {name!r}", known)
    if len(found) > 1:
        several = ", ".join(chip.name for chip in found)
        raise GpioError(f"{line}: {len(found)} chips are labelled {name!r}; use one of {several}", "failed")
    return found[0]


def _only(line: str, chips: list[Chip]) -> Chip:
    if len(chips) > 1:
        names = ", ".join(f"{chip.name} ({chip.label})" for chip in chips)
        raise GpioError(f"{line}: say on which chip, as in gpiochip0:{line}, or set [gpio] chip; there are {names}", "failed")
    return chips[0]
