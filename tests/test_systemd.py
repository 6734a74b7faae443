"""The unit files: systemd understands them, the service is confined, and every hole has its reason beside it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgehost.service.files import PROGRAM

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
MOST_EXPOSURE = 3.0
HOLES = (
    *("PrivateDevices", "ProtectControlGroups", "PrivateNetwork", "IPAddressDeny", "PrivateUsers", "ProcSubset"),
    "MemoryDenyWriteExecute",
)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.needs("systemd-analyze")
def test_systemd_understands_every_unit(tmp_path: Path) -> None:
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace(str(PROGRAM), sys.executable))
    done = analyze("verify", *(str(tmp_path / unit.name) for unit in UNITS))
    told = [line for line in done.stderr.splitlines() if "edgehost" in line]
    assert (done.returncode, told) == (0, [])


@pytest.mark.needs("systemd-analyze")
def test_the_service_is_confined() -> None:
    done = analyze("security", "--offline=true", "--json=short", str(FOLDER / "edgehost.service"))
    assert done.returncode == 0, done.stderr
    exposed = {row["name"]: float(row["exposure"]) for row in json.loads(done.stdout) if row["set"] is False and row["exposure"]}
    overall = analyze("security", "--offline=true", "--no-pager", str(FOLDER / "edgehost.service")).stdout
    found = re.search(r"Overall exposure level for edgehost.service: ([\d.]+)", overall)
    assert found is not None
    assert float(found[1]) <= MOST_EXPOSURE, exposed


@pytest.mark.parametrize("hole", HOLES)
def test_every_hole_has_its_reason_above(hole: str) -> None:
    lines = (FOLDER / "edgehost.service").read_text().splitlines()
    assert [line for line in lines if line.startswith("#") and f"{hole}=" in line]
    assert not [line for line in lines if line.startswith(f"{hole}=")]


def test_what_is_given_is_what_functions_need() -> None:
    unit = (FOLDER / "edgehost.service").read_text()
    for needed in ("Type=notify", "WatchdogSec=", "ExecReload=", "KillMode=mixed", "Delegate=", "Restart=", "LoadCredential="):
        assert f"\n{needed}" in unit
    for call in ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"):
        assert re.search(rf"^SystemCallFilter=@system-service.* {call}\b", unit, re.MULTILINE)


def test_the_files_travel_in_the_package() -> None:
    packaged = ROOT / "edgehost" / "systemd"
    assert {path.name for path in packaged.iterdir()} == {path.name for path in FOLDER.iterdir()}
