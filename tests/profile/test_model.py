"""What a profile says of pins: every name a person knows a pin by leads to one line."""

from __future__ import annotations

import pytest

from edgehost.profile.model import Gpio, Line, Profile, Quirk, Sign

GPIO = Gpio(
    chips=("soc", "expander"),
    lines={"BCM17": 17, "PAC.06": "PAC.06", "LED": Line("expander", 3), "KEY": Line(offset=4)},
    headers={"J8": ("3V3", "BCM17", "GND", "PAC.06", "LED")},
)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("BCM17", Line("soc", 17)),
        ("bcm17", Line("soc", 17)),
        ("J8-2", Line("soc", 17)),
        ("j8_2", Line("soc", 17)),
        ("J8-4", Line("soc", name="PAC.06")),
        ("J8-5", Line("expander", 3)),
        ("KEY", Line("soc", 4)),
        ("3V3", None),
        ("J8-1", None),
        ("J8-6", None),
        ("", None),
    ],
)
def test_find(name: str, line: Line | None) -> None:
    assert GPIO.find(name) == line


def test_pins_holds_every_name() -> None:
    assert list(GPIO.pins) == ["BCM17", "PAC.06", "LED", "KEY", "J8-2", "J8-4", "J8-5"]
    assert all(line.chip for line in GPIO.pins.values())


def test_a_board_without_pins_finds_none() -> None:
    assert Gpio().find("BCM17") is None


@pytest.mark.parametrize("line", [Line("c"), Line("c", 1, "x")])
def test_a_line_has_an_offset_or_a_name(line: Line) -> None:
    with pytest.raises(ValueError, match="lines: A needs either offset"):
        Gpio(lines={"A": line})


@pytest.mark.parametrize("line", [1, Line(offset=1)])
def test_an_offset_needs_a_chip(line: int | Line) -> None:
    with pytest.raises(ValueError, match="chips: missing; A = 1 is an offset"):
        Gpio(lines={"A": line})


def test_a_name_may_be_looked_for_on_every_chip() -> None:
    assert Gpio(lines={"A": "P9_12"}).find("A") == Line(name="P9_12")


def test_a_sign_asks_something() -> None:
    with pytest.raises(ValueError, match=r"quirks: fan\.sign asks nothing"):
        Profile("x", "x", quirks={"fan": Quirk("w", "d", "s", Sign())})
