"""Where the line is that somebody means."""

from __future__ import annotations

import pytest

from edgehost.gpio.line import Chip, Place
from edgehost.gpio.places import Places
from edgehost.gpio.sim import SimBoard
from edgehost.gpio.trouble import GpioError
from edgehost.profile import load
from edgehost.profile.model import Gpio, Line

HEADER = Gpio(
    chips=("pinctrl-sim",),
    lines={"BCM3": 3, "BCM4": 4, "PAC.06": Line("usb-adapter", name="RELAY_2"), "P9_11": Line(name="ID_SD")},
    headers={"J8": ("3V3", "BCM3", "BCM4")},
)


def found(board: SimBoard, line: str, chip: str = "", header: Gpio = HEADER) -> Place:
    return Places(board, header, chip).find(line)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("gpiochip0:5", ("/dev/gpiochip0", 5)),
        ("/dev/gpiochip1:2", ("/dev/gpiochip1", 2)),
        ("pinctrl-sim:0", ("/dev/gpiochip0", 0)),
        ("usb-adapter:RELAY_2", ("/dev/gpiochip1", 1)),
        ("SENSOR_A", ("/dev/gpiochip0", 3)),
        ("RELAY_1", ("/dev/gpiochip1", 0)),
        ("gpiochip1:TWICE", ("/dev/gpiochip1", 2)),
        ("BCM3", ("/dev/gpiochip0", 3)),
        ("bcm4", ("/dev/gpiochip0", 4)),
        ("J8-2", ("/dev/gpiochip0", 3)),
        ("j8_3", ("/dev/gpiochip0", 4)),
        ("PAC.06", ("/dev/gpiochip1", 1)),
        ("P9_11", ("/dev/gpiochip0", 1)),
    ],
)
def test_a_line_is_found(board: SimBoard, line: str, place: tuple[str, int]) -> None:
    assert found(board, line) == place


BEAGLEBONE = load("beaglebone-black").gpio


@pytest.mark.parametrize(
    ("names", "line", "offset"),
    [
        (["P8_42 [hdmi]", "P8_35 [lcd d12]"], "P8_35", 1),
        (["P8_42 [hdmi]", "P8_35 [hdmi]"], "P8_35", 1),
        (["P8_42 [hdmi]", "P9_12"], "P9_12", 1),
        (["P8_42 [hdmi]", "P9_42A [ecappwm0]"], "P9_42", 1),
        (["P8_42 [hdmi]", "P8_42A [ecappwm0]"], "P9_42", 1),
        (["P8_42A [ecappwm0]", "P8_42 [hdmi]"], "P8_42", 1),
        (["P8_35 [hdmi]", "P8_35 [lcd d12]"], "P8_35", 1),
    ],
)
def test_a_pin_of_the_board_is_found_whatever_the_kernel_writes_behind_its_name(names: list[str], line: str, offset: int) -> None:
    board = SimBoard(invent=False)
    board.add("gpio-0-31", names)
    assert found(board, line, header=BEAGLEBONE) == ("/dev/gpiochip0", offset)


def test_the_name_of_a_line_that_is_no_pin_is_taken_as_it_is(board: SimBoard) -> None:
    board.add("other", ["LED [red]"])
    with pytest.raises(GpioError, match="LED: no line has this name"):
        found(board, "LED")


def test_a_number_is_on_the_configured_chip_or_the_only_one(board: SimBoard, chip: Chip) -> None:
    assert found(board, "2", "usb-adapter") == ("/dev/gpiochip1", 2)
    with pytest.raises(
        GpioError, match=r"2: say on which chip, as in gpiochip0:2, .* gpiochip0 \(pinctrl-sim\), gpiochip1 \(usb"
    ):
        found(board, "2")
    board.unplug(chip)
    assert found(board, "2") == ("/dev/gpiochip1", 2)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SENSOR_B", "SENSOR_B: no line has this name; there are SENSOR_A"),
        ("BCM44", "BCM44: no line has this name; there are BCM4, BCM3"),
        ("gpiochip7:1", "gpiochip7:1: no chip 'gpiochip7'; there are gpiochip1, gpiochip0"),
        ("gpiochip0:8", "gpiochip0:8: gpiochip0 (pinctrl-sim) has lines 0 to 7"),
        ("gpiochip0:RELAY_1", "gpiochip0:RELAY_1: no line has this name"),
        ("TWICE", "TWICE: 2 lines have this name; use one of gpiochip0:7, gpiochip1:2"),
    ],
)
def test_a_line_that_is_not_there_is_told_with_its_likes(board: SimBoard, line: str, said: str) -> None:
    with pytest.raises(GpioError) as caught:
        found(board, line)
    assert str(caught.value).startswith(said)
    assert caught.value.state == "failed"


def test_two_chips_of_one_label_are_told_apart(board: SimBoard) -> None:
    board.add("usb-adapter")
    with pytest.raises(GpioError, match="2 chips are labelled 'usb-adapter'; use one of gpiochip1, gpiochip2"):
        found(board, "usb-adapter:1")


def test_no_chip_at_all_says_what_to_do() -> None:
    with pytest.raises(GpioError, match=r"no GPIO chip .* driver = 'sim'"):
        found(SimBoard(invent=False), "BCM3")


def test_no_permission_says_which_group() -> None:
    class Closed(SimBoard):
        def chips(self) -> list[Chip]:
            raise PermissionError(13, "Permission denied", "/dev/gpiochip0")

    with pytest.raises(
        GpioError, match="BCM3: no permission to open /dev/gpiochip0; add the agent's user to the group gpio"
    ) as caught:
        found(Closed(), "BCM3")
    assert caught.value.state == "failed"


@pytest.mark.parametrize(
    ("line", "header", "chip"),
    [
        ("BCM17", Gpio(), "sim"),
        ("SENSOR_A", Gpio(), "sim"),
        ("gpiochip0:17", Gpio(), "gpiochip0"),
        ("pinctrl-bcm2711:17", Gpio(), "pinctrl-bcm2711"),
        ("17", Gpio(), "sim"),
        ("J8-2", HEADER, "pinctrl-sim"),
        ("PAC.06", HEADER, "usb-adapter"),
    ],
)
def test_a_board_that_invents_has_what_is_named(line: str, header: Gpio, chip: str) -> None:
    board = SimBoard()
    places = Places(board, header, "")
    places.provide(line)
    place = places.find(line)
    places.provide(line)
    assert places.find(line) == place
    assert [chip.label for chip in board.chips()] == [chip]


def test_what_a_board_invents_is_one_line_for_one_name() -> None:
    board = SimBoard()
    places = Places(board, Gpio(), "")
    for line in ("BCM17", "LED", "BCM17", "gpiochip0:LED"):
        places.provide(line)
    assert places.find("gpiochip0:LED") == places.find("LED") != places.find("BCM17")
    assert len(board.chips()) == 1
