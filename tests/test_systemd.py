"""The unit files: systemd understands them, the service is confined, and every hole has its reason beside it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from edgehost.service.files import PROGRAM

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "systemd"
UNITS = sorted([*FOLDER.glob("*.service"), *FOLDER.glob("*.timer")])
MOST_EXPOSURE = 3.0
HOLES = (
    *("PrivateDevices", "ProtectControlGroups", "PrivateNetwork", "IPAddressDeny", "PrivateUsers", "ProcSubset"),
    *("MemoryDenyWriteExecute", "RootDirectory"),
)
"""What is left out on purpose, on any systemd; what else is exposed is asked of the one that is here."""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.needs("systemd-analyze")
def test_systemd_understands_every_unit(tmp_path: Path) -> None:
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace(str(PROGRAM), sys.executable))
    done = analyze("verify", *(str(tmp_path / unit.name) for unit in UNITS))
    told = [line for line in done.stderr.splitlines() if "edgehost" in line]
    assert (done.returncode, told) == (0, [])


def exposed() -> dict[str, float]:
    """What systemd-analyze finds open in the service, and how much it counts that."""
    done = analyze("security", "--offline=true", "--json=short", str(FOLDER / "edgehost.service"))
    assert done.returncode == 0, done.stderr
    return {row["name"]: float(row["exposure"]) for row in json.loads(done.stdout) if row["set"] is False and row["exposure"]}


def called(setting: str) -> str:
    """What a comment calls it: `UMask=` by its name, `RestrictAddressFamilies=~AF_(INET|INET6)` by what is let in."""
    let_in = re.search(r"=~(@\w+|AF_)\(?(\w*)", setting)
    return "".join(let_in.groups()) if let_in else setting[: setting.index("=") + 1]


@pytest.mark.needs("systemd-analyze")
def test_the_service_is_confined() -> None:
    overall = analyze("security", "--offline=true", "--no-pager", str(FOLDER / "edgehost.service")).stdout
    found = re.search(r"Overall exposure level for edgehost.service: ([\d.]+)", overall)
    assert found is not None
    assert float(found[1]) <= MOST_EXPOSURE, exposed()


@pytest.mark.needs("systemd-analyze")
def test_everything_that_is_open_is_named_in_a_comment() -> None:
    comments = [line for line in (FOLDER / "edgehost.service").read_text().splitlines() if line.startswith("#")]
    settings = exposed()
    assert [name for name in settings if not any(called(name) in line for line in comments)] == []
    assert "UMask=" in settings


@pytest.mark.parametrize("hole", HOLES)
def test_every_hole_has_its_reason_above(hole: str) -> None:
    lines = (FOLDER / "edgehost.service").read_text().splitlines()
    assert [line for line in lines if line.startswith("#") and f"{hole}=" in line]
    assert not [line for line in lines if line.startswith(f"{hole}=")]


def test_what_is_given_is_what_functions_need() -> None:
    unit = (FOLDER / "edgehost.service").read_text()
    for needed in ("Type=notify", "WatchdogSec=", "ExecReload=", "KillMode=mixed", "Delegate=", "Restart="):
        assert f"\n{needed}" in unit
    assert "Credential=" not in unit, "systemd below 250 does not start a unit that names a folder; see the drop-in"
    for call in ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"):
        assert re.search(rf"^SystemCallFilter=@system-service.* {call}\b", unit, re.MULTILINE)


def test_what_the_driver_of_a_device_needs_is_loaded_before_the_service_starts() -> None:
    """DeviceAllow= is resolved then, by the names in /proc/devices."""
    unit = (FOLDER / "edgehost.service").read_text()
    for module in ("usbserial", "cdc_acm", "videodev", "i2c_dev", "spidev"):
        for key in ("Wants", "After"):
            assert re.search(rf"^{key}=.*modprobe@{module}\.service\b", unit, re.MULTILINE)


def test_the_gpu_of_a_jetson_can_be_opened() -> None:
    """By the names nvgpu, host1x-fence and nvmap register: the device's in the tree, their own, and none, as a misc device."""
    allowed = re.findall(r"^DeviceAllow=(\S+) rw$", (FOLDER / "edgehost.service").read_text(), re.MULTILINE)
    kinds = [entry.removeprefix("char-") for entry in allowed if entry.startswith("char-")]
    for name in ("17000000.gpu", "17000000.ga10b", "17000000.gv11b", "host1x-fence", "nvidia-frontend"):
        assert any(fnmatchcase(name, kind) for kind in kinds), name
    assert "/dev/nvmap" in allowed


def test_a_retry_follows_no_stop_and_is_not_refused() -> None:
    unit, timer = ((FOLDER / name).read_text() for name in ("edgehost.service", "edgehost-retry.timer"))
    assert "\nWants=edgehost-retry.timer\n" in unit and "\nOnFailure=" not in unit
    assert "\nPartOf=edgehost.service\n" in timer
    assert "\nOnUnitInactiveSec=1min\n" in timer and "\nStartLimitIntervalSec=60\n" in unit


def test_udev_tells_the_modem_manager_in_its_own_words() -> None:
    rules = (FOLDER / "udev.rules").read_text()
    assert 'KERNEL=="ttyUSB*|ttyACM*", GROUP="dialout", MODE="0660", ENV{ID_MM_PORT_IGNORE}="1"\n' in rules
    assert "ID_MM_CANDIDATE" not in rules, "80-mm-candidate.rules sets it later"


def test_udev_gives_group_gpio_what_pwm_is_driven_by() -> None:
    rule = next(line for line in (FOLDER / "udev.rules").read_text().splitlines() if line.startswith('SUBSYSTEM=="pwm"'))
    assert 'ACTION!="remove"' in rule and "chgrp -R gpio /sys%p" in rule and "chmod -R g=u /sys%p" in rule


def test_the_files_travel_in_the_package() -> None:
    packaged = ROOT / "edgehost" / "systemd"
    assert {path.name for path in packaged.iterdir()} == {path.name for path in FOLDER.iterdir()}
