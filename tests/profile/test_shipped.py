"""Every profile edgehost comes with: fits the schema, contradicts itself nowhere, and says where its facts are from."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from edgehost.profile import Profile, load, names
from edgehost.profile.profile_toml import PARTS

POWER = re.compile(r"\d+V\d*|(A?GND|V[DA]D.*|VADC|SYS_.*|PWR_BUT|AIN\d|eMMC .*|(I2C|UART) .*)")

BOARDS = [name for name in names() if not name.startswith("generic")]


@pytest.fixture(params=names())
def profile(request: pytest.FixtureRequest) -> Profile:
    return load(request.param)


def test_it_is_named_by_its_file(profile: Profile) -> None:
    assert load(profile.name) == profile


def test_no_line_has_two_signals(profile: Profile) -> None:
    lines = Counter(str(profile.gpio.find(signal)) for signal in profile.gpio.lines)
    assert [line for line, count in lines.items() if count > 1] == []


def test_no_signal_is_on_two_pins(profile: Profile) -> None:
    placed = Counter(signal for signals in profile.gpio.headers.values() for signal in signals if signal in profile.gpio.lines)
    assert [signal for signal, count in placed.items() if count > 1] == []


def test_what_is_on_a_header_is_a_line_or_no_signal(profile: Profile) -> None:
    strange = [
        signal
        for signals in profile.gpio.headers.values()
        for signal in signals
        if signal not in profile.gpio.lines and not POWER.fullmatch(signal)
    ]
    assert strange == []


def test_notes_are_about_signals(profile: Profile) -> None:
    assert set(profile.gpio.notes) <= set(profile.gpio.lines)


def test_every_pin_is_found_by_each_of_its_names(profile: Profile) -> None:
    for name, line in profile.gpio.pins.items():
        assert profile.gpio.find(name.lower().replace("-", "_")) == line
        assert line.chip in profile.gpio.chips or (not line.chip and line.name)


def test_what_other_kernels_call_a_line_is_about_a_line(profile: Profile) -> None:
    names = {line.name.partition(" [")[0] for line in profile.gpio.pins.values()}
    assert set(profile.gpio.renamed) <= names
    assert names.isdisjoint(name for others in profile.gpio.renamed.values() for name in others)


def test_headers_have_their_pins(profile: Profile) -> None:
    assert {len(signals) for signals in profile.gpio.headers.values()} <= {40, 46}


def test_workers_leave_a_core(profile: Profile) -> None:
    assert profile.cores == 0 or 1 <= profile.workers <= max(1, profile.cores - 1)


def test_what_hardware_has_is_in_every_board(profile: Profile) -> None:
    if profile.generic:
        return
    assert profile.gpio.lines and profile.serial and profile.storage.advice and profile.sources and profile.memory_mib
    assert profile.cores or "fewer cores" in profile.note
    assert profile.watchdog or "no watchdog is named" in profile.note
    assert all(provider.endswith("ExecutionProvider") for provider in profile.providers)


@pytest.mark.parametrize("name", [name for name in BOARDS if "raspberry" in name])
def test_the_raspberry_pis_header(name: str) -> None:
    gpio = load(name).gpio
    assert [signal for signal in gpio.headers["J8"] if signal.startswith("BCM")] == [
        f"BCM{number}"
        for number in (2, 3, 4, 14, 15, 17, 18, 27, 22, 23, 24, 10, 9, 25, 11, 8, 7, 0, 1, 5, 6, 12, 13, 19, 16, 26, 20, 21)
    ]
    assert [line.offset for line in map(gpio.find, gpio.lines) if line] == list(range(28))


@pytest.mark.parametrize("name", [name for name in BOARDS if "jetson" in name])
def test_a_bcm_name_is_at_the_same_place_on_a_jetson_as_on_a_raspberry_pi(name: str) -> None:
    pi, jetson = load("raspberry-pi-4b").gpio.headers["J8"], load(name).gpio.headers["BOARD"]
    moved = [signal for signal in jetson if signal.startswith("BCM") and pi.index(signal) != jetson.index(signal)]
    assert moved == []


@pytest.mark.parametrize(
    ("name", "pin", "line"),
    [
        ("raspberry-pi-zero-2-w", "J8-11", "pinctrl-bcm2835 17"),
        ("raspberry-pi-3b-plus", "BCM17", "pinctrl-bcm2835 17"),
        ("raspberry-pi-4b", "J8-40", "pinctrl-bcm2711 21"),
        ("raspberry-pi-cm4", "J8-3", "pinctrl-bcm2711 2"),
        ("raspberry-pi-5", "J8-7", "pinctrl-rp1 4"),
        ("jetson-nano", "BOARD-7", "tegra-gpio 216"),
        ("jetson-xavier-nx", "BOARD-15", "tegra194-gpio-aon PCC.04"),
        ("jetson-orin-nano", "BCM4", "tegra234-gpio PAC.06"),
        ("jetson-orin-nx", "BOARD-32", "tegra234-gpio PG.06"),
        ("jetson-agx-orin", "BOARD-29", "tegra234-gpio-aon PAA.01"),
        ("beaglebone-black", "P9_12", "P9_12"),
        ("beaglebone-black", "P8-19", "P8_19 [ehrpwm2a]"),
        ("beaglebone-black", "GPIO1_28", "P9_12"),
    ],
)
def test_pins_are_where_the_boards_documents_say(name: str, pin: str, line: str) -> None:
    assert str(load(name).gpio.find(pin)).strip() == line


def test_parts_are_no_profiles_and_are_all_used() -> None:
    parts = {path.stem for path in PARTS.glob("*.toml")}
    used = {
        word
        for folder in (PARTS, PARTS.parent)
        for path in folder.glob("*.toml")
        for word in re.findall(r'^extends = "(.*)"', path.read_text(), re.M)
    }
    assert parts.isdisjoint(names()) and parts <= used
