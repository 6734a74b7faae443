"""`edgehost profile`: what was recognised and why, for people and for machines, and a profile of one's own to start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgehost.profile import load, names
from edgehost.profile.board import recognise

Machine = Callable[[dict[str, str]], Path]

RASPBERRY_PI = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    "proc/meminfo": "MemTotal: 3885436 kB\n",
    "proc/cmdline": "cgroup_disable=memory console=tty1",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "47225\n",
    "sys/class/watchdog/watchdog0/identity": "Broadcom BCM2835 Watchdog timer\n",
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """`machine(files)`: what the command takes for this machine."""

    def make(files: dict[str, str]) -> Path:
        root = tmp_path / "root"
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        root.mkdir(exist_ok=True)
        monkeypatch.setattr("edgehost.cli.profile.ROOT", root)
        return root

    return make


def words(text: str) -> str:
    return " ".join(text.split())


def test_it_shows_the_board_why_it_is_this_one_and_what_holds_now(cli, machine: Machine) -> None:
    machine(RASPBERRY_PI)
    result = cli("profile")
    shown = words(result.out)
    assert result.code == 0 and shown.startswith(
        "Raspberry Pi 4 Model B raspberry-pi-4b the device tree says raspberrypi,4-model-b"
    )
    for part in (
        "cores 4",
        "memory 3,794 MiB here; sold with 1 GiB, 2 GiB, 4 GiB, 8 GiB",
        'workers at most 3 for a busy function, memory = "256MiB" in its [limits]',
        "onnx CPU",
        "gpio pinctrl-bcm2711; 28 lines on J8: see --pins",
        "serial serial0 /dev/serial0 not there",
        "temperature cpu-thermal 47.2 °C",
        "watchdog bcm2835_wdt, at most 15 s; here: Broadcom BCM2835 Watchdog timer",
        "memory-controller holds here now:",
        "→ append cgroup_enable=memory",
        "serial-console not here now:",
        "SOURCES",
    ):
        assert part in shown


def test_an_unknown_board_is_told_how_to_be_known(cli, machine: Machine) -> None:
    machine({"proc/device-tree/model": "Acme [bold]Box[/bold]\0"})
    out = cli("profile").out
    assert "no profile knows 'Acme [bold]Box[/bold]'" in out and "`edgehost profile --write FILE`" in out


def test_another_profile_is_shown_without_this_machine(cli, machine: Machine) -> None:
    machine(RASPBERRY_PI)
    result = cli("profile", "jetson-nano")
    assert result.out.startswith("NVIDIA Jetson Nano  jetson-nano\n\n")
    assert "here" not in result.out.partition("SOURCES")[0]


def test_pins(cli) -> None:
    rows = [words(line) for line in cli("profile", "raspberry-pi-5", "--pins").out.splitlines()]
    assert rows[:4] == ["Raspberry Pi 5 pinctrl-rp1", "", "J8", "3V3 1 2 5V"]
    assert "17 BCM17 11 12 BCM18 18 PWM0, PCM CLK" in rows
    assert len(rows) == 23
    assert "no header is known" in cli("profile", "generic-x86_64", "--pins").out


def test_list(cli) -> None:
    assert [line.split()[0] for line in cli("profile", "--list").out.splitlines()[1:]] == names()
    assert [profile["name"] for profile in cli("profile", "--list", "--json").json["profiles"]] == names()


def test_json(cli, machine: Machine) -> None:
    machine(RASPBERRY_PI)
    found = cli("profile", "--json").json
    assert found["why"] == "the device tree says raspberrypi,4-model-b"
    assert found["facts"]["compatible"] == ["raspberrypi,4-model-b", "brcm,bcm2711"]
    assert found["here"]["quirks"]["memory-controller"] is True
    assert found["profile"]["name"] == "raspberry-pi-4b" and found["profile"]["watchdog"]["max_timeout_s"] == 15
    assert found["pins"]["J8-11"] == {"chip": "pinctrl-bcm2711", "offset": 17, "name": ""}
    assert set(cli("profile", "raspberry-pi-5", "--json").json) == {"profile", "pins"}


@pytest.mark.parametrize("name", names())
def test_every_profile_can_be_shown(cli, name: str) -> None:
    assert load(name).title in cli("profile", name).out
    assert cli("profile", name, "--pins").code == 0


def test_the_configurations_profile(cli, machine: Machine, tmp_path: Path) -> None:
    machine(RASPBERRY_PI)
    config = tmp_path / "edgehost.toml"
    config.write_text('[agent]\nprofile = "beaglebone-black"\n')
    shown = cli("profile", "--config", config).out
    assert shown.startswith("BeagleBone Black  beaglebone-black\nedgehost.toml says so\n")


def test_what_is_written_is_a_profile_of_this_machine(cli, machine: Machine, tmp_path: Path) -> None:
    root = machine({"proc/device-tree/model": "Acme Box\0", "proc/device-tree/compatible": "acme,box\0"})
    file = tmp_path / "box.toml"
    result = cli("profile", "--write", file)
    assert result.code == 0 and f"edgehost profile {file}" in result.err
    mine = load(file)
    assert (mine.title, mine.match.compatible) == ("Acme Box", ("acme,box",))
    assert mine.providers == recognise(root).profile.providers
    assert cli("profile", file).out.startswith("Acme Box  box\n")
    again = cli("profile", "--write", file)
    assert again.code == 2 and "File exists" in again.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["raspberry-pi-6"], 'profile "raspberry-pi-6" is not known; did you mean raspberry-pi-5?'),
        (["./none.toml"], "none.toml: cannot be read"),
    ],
)
def test_a_profile_that_is_not_there(cli, arguments: list[str], problem: str) -> None:
    result = cli("profile", *arguments)
    assert result.code == 3 and problem in result.err


def test_it_runs_on_this_machine(program) -> None:
    assert program("profile", "--json").json["profile"]["name"] in names()
