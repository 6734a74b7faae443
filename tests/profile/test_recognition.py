"""Every board edgehost knows is recognised by what it says of itself, and a board nobody knows by its architecture."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.config import Config
from edgehost.errors import ConfigError
from edgehost.profile import current, load, names, recognise
from edgehost.profile.board import _matches, chosen
from edgehost.profile.facts import Facts, read_facts
from edgehost.profile.model import Match
from edgehost.profile.recognition import best, fit

BOARDS = [
    ("raspberry-pi-zero-2-w", "Raspberry Pi Zero 2 W Rev 1.0", ("raspberrypi,model-zero-2-w", "brcm,bcm2837")),
    ("raspberry-pi-3b-plus", "Raspberry Pi 3 Model B", ("raspberrypi,3-model-b", "brcm,bcm2837")),
    ("raspberry-pi-3b-plus", "Raspberry Pi 3 Model B Plus Rev 1.3", ("raspberrypi,3-model-b-plus", "brcm,bcm2837")),
    ("raspberry-pi-4b", "Raspberry Pi 4 Model B Rev 1.4", ("raspberrypi,4-model-b", "brcm,bcm2711")),
    ("raspberry-pi-5", "Raspberry Pi 5 Model B Rev 1.0", ("raspberrypi,5-model-b", "brcm,bcm2712")),
    ("raspberry-pi-cm4", "Raspberry Pi Compute Module 4 IO Board", ("raspberrypi,4-compute-module", "brcm,bcm2711")),
    ("jetson-nano", "NVIDIA Jetson Nano Developer Kit", ("nvidia,p3450-0000", "nvidia,tegra210")),
    ("jetson-nano", "NVIDIA Jetson Nano Developer Kit", ("nvidia,p3450-0000", "nvidia,jetson-nano", "nvidia,tegra210")),
    ("jetson-xavier-nx", "NVIDIA Jetson Xavier NX Developer Kit (eMMC)", ("nvidia,p3509-0000+p3668-0001", "nvidia,tegra194")),
    (
        "jetson-orin-nano",
        "NVIDIA Jetson Orin Nano Developer Kit",
        ("nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"),
    ),
    ("jetson-orin-nano", "NVIDIA Jetson Orin Nano Engineering", ("nvidia,p3768-0000+p3767-0005-super", "nvidia,tegra234")),
    (
        "jetson-orin-nx",
        "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        ("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"),
    ),
    (
        "jetson-agx-orin",
        "NVIDIA Jetson AGX Orin Developer Kit",
        ("nvidia,p3737-0000+p3701-0000", "nvidia,p3701-0000", "nvidia,tegra234"),
    ),
    ("beaglebone-black", "TI AM335x BeagleBone Black", ("ti,am335x-bone-black", "ti,am335x-bone", "ti,am33xx")),
    (
        "beaglebone-black",
        "TI AM335x BeagleBone Black Wireless",
        ("ti,am335x-bone-black-wireless", "ti,am335x-bone-black", "ti,am335x-bone", "ti,am33xx"),
    ),
]
"""Profile, and what the board says: the model and compatible strings of Linux, Raspberry Pi's firmware and Jetson Linux."""
GENERIC = {"x86_64": "generic-x86_64", "aarch64": "generic-aarch64", "armv7l": "generic-armv7", "armv8l": "generic-armv7"}


@pytest.mark.parametrize(("name", "model", "compatible"), BOARDS)
def test_a_board_is_recognised_by_its_device_tree(root, name, model, compatible):
    found = recognise(root(model, compatible), "aarch64")
    assert (found.profile.name, found.why) == (name, f"the device tree says {compatible[0]}")


@pytest.mark.parametrize(("name", "model", "compatible"), BOARDS)
def test_no_two_profiles_fit_a_board_equally(name, model, compatible):
    facts = Facts("aarch64", model, compatible)
    ranks = sorted(found[0] for match in _matches().values() if (found := fit(match, facts)))
    assert ranks[0] < ranks[1]


def test_every_profile_but_the_generic_ones_has_a_board_in_the_tests():
    assert {name for name, _, _ in BOARDS} | set(GENERIC.values()) == set(names())


@pytest.mark.parametrize(("name", "model"), [(name, model) for name, model, _ in BOARDS])
def test_a_model_text_is_enough(root, name, model):
    assert recognise(root(model), "aarch64").profile.name == name


@pytest.mark.parametrize(
    "model", ["Raspberry Pi 500 Rev 1.0", "Raspberry Pi 400 Rev 1.0", "Raspberry Pi Compute Module 4S Rev 1.0"]
)
def test_a_cousin_is_not_taken_for_a_board_that_is_known(root, model):
    assert recognise(root(model), "aarch64").profile.generic


@pytest.mark.parametrize(("architecture", "name"), GENERIC.items())
def test_a_board_nobody_knows_is_generic_and_the_reason_says_so(root, architecture, name):
    found = recognise(root("Acme EdgeBox 3", ("acme,edgebox-3", "acme,soc")), architecture)
    assert found.profile.name == name and found.profile.generic
    assert found.why == f"no profile knows 'Acme EdgeBox 3' (acme,edgebox-3); the architecture is {architecture}"


def test_a_machine_that_says_nothing(root):
    assert recognise(root(), "x86_64").why.startswith("no profile knows this machine, which does not say what it is; ")


def test_a_pc_is_called_by_its_firmware(root):
    files = {"sys/class/dmi/id/sys_vendor": "Acme Inc.\n", "sys/class/dmi/id/product_name": "Box 9\n"}
    found = recognise(root(files=files), "x86_64")
    assert found.facts.dmi == "Acme Inc. / Box 9" and "'Acme Inc. / Box 9'" in found.why


def test_an_architecture_nobody_knows_is_generic_too(root):
    found = recognise(root("Acme Box"), "riscv64")
    assert (found.profile.name, found.profile.title, found.profile.generic) == ("generic", "riscv64 machine", True)
    assert found.why == "no profile knows 'Acme Box'; the architecture is riscv64"


def test_the_first_compatible_string_wins_over_the_later_ones():
    matches = {
        "a": Match(compatible=("soc",)),
        "b": Match(compatible=("board",)),
        "c": Match(model=("B*",)),
        "d": Match(dmi=("V / *",)),
    }
    assert best(matches, Facts("x", "Board", ("board", "soc"))) == ("b", "the device tree says board")
    assert best(matches, Facts("x", "Board", ("other", "soc")))[0] == "a"
    assert best(matches, Facts("x", "Board", ("other",), "V / P"))[0] == "d"
    assert best(matches, Facts("x", "Board"))[0] == "c"
    assert best(matches, Facts("x"))[0] == ""


@given(st.lists(st.text(max_size=8), max_size=5), st.text(max_size=20), st.text(max_size=20))
def test_whatever_a_machine_says_it_gets_a_profile(compatible, model, dmi):
    assert best(_matches(), Facts("aarch64", model, tuple(compatible), dmi))[0] in names()


def test_facts(root):
    files = {
        "sys/devices/system/cpu/online": "0-2,5\n",
        "proc/meminfo": "MemTotal:        3885436 kB\nMemFree: 1 kB\n",
    }
    facts = read_facts(root("Board", ("b",), files), "aarch64")
    assert facts == Facts("aarch64", "Board", ("b",), "", 4, 3885436 * 1024)


def test_facts_of_this_machine_are_read():
    assert recognise().profile.name in names()


def test_what_a_profile_leaves_open_is_the_machines(root):
    found = recognise(root(files={"sys/devices/system/cpu/online": "0-7\n"}), "aarch64")
    assert (found.profile.cores, found.profile.workers) == (8, 7)
    assert recognise(root("Raspberry Pi 4 Model B Rev 1.1"), "aarch64").profile.cores == 4


def test_a_machine_that_does_not_count_its_cores_gets_one_worker(root):
    assert recognise(root(), "x86_64").profile.workers == 1


def test_the_configuration_overrides_what_is_recognised(tmp_path):
    assert current(Config(profile="raspberry-pi-5")) == load("raspberry-pi-5")
    assert chosen("raspberry-pi-5").why == "edgehost.toml says so"
    own = tmp_path / "mine.toml"
    own.write_text('extends = "raspberry-pi-4b"\ntitle = "Mine"\n')
    assert current(Config(profile=str(own))).title == "Mine"
    with pytest.raises(ConfigError, match='profile "raspbery-pi-5" is not known; did you mean raspberry-pi-5'):
        current(Config(profile="raspbery-pi-5"))
