"""The package of tools/build-deb on a bare Debian without a network: installed, upgraded, removed, purged."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

DEB = next(Path("/srv/edgehost/dist").glob("edgehost_*.deb"), None)
PROGRAM = "/usr/bin/edgehost"


@pytest.fixture(autouse=True)
def package() -> None:
    """As with any component that is missing: a skip at home, a failure in CI."""
    if DEB is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no package: make one with tools/build-deb")


def run(*command: str, code: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def test_a_package_is_a_service_at_once_and_goes_without_a_trace() -> None:
    run("dpkg", "--install", str(DEB))
    assert run("systemctl", "is-active", "edgehost") == "active"
    unit = Path(run("systemctl", "show", "edgehost", "-P", "FragmentPath"))
    assert unit.samefile("/usr/lib/systemd/system/edgehost.service")
    assert '"functions":[]' in run(PROGRAM, "functions", "--json")
    assert run(PROGRAM, "install", "--packaged").startswith("already as it should be")
    before = run("systemctl", "show", "edgehost", "-P", "MainPID")
    Path("/etc/edgehost/edgehost.toml").write_text('[http]\nlisten = "127.0.0.1:8099"\n')
    run("dpkg", "--install", str(DEB))
    assert run("systemctl", "is-active", "edgehost") == "active"
    assert run("systemctl", "show", "edgehost", "-P", "MainPID") != before, "an upgrade runs the new code"
    assert "8099" in Path("/etc/edgehost/edgehost.toml").read_text()
    Path("/etc/edgehost/edgehost.toml").write_text("[http]\nlisten = 8099\n")
    run("systemctl", "restart", "edgehost", code=1)
    assert run("systemctl", "is-active", "edgehost-retry.timer") == "active"
    run("dpkg", "--remove", "edgehost")
    for unit in ("edgehost.service", "edgehost-retry.timer"):
        assert run("systemctl", "show", unit, "--property=ActiveState", "--value") != "active"
    assert not Path("/opt/edgehost").exists()
    assert Path("/etc/edgehost/edgehost.toml").exists()
    run("dpkg", "--purge", "edgehost")
    assert [str(path) for place in ("/etc", "/usr/lib/systemd", "/var/lib") for path in Path(place).glob("**/*edgehost*.*")] == []


def test_an_upgrade_starts_no_service_that_was_disabled() -> None:
    run("dpkg", "--install", str(DEB))
    run("systemctl", "disable", "--now", "edgehost")
    run("dpkg", "--install", str(DEB))
    assert run("systemctl", "is-enabled", "edgehost", code=1) == "disabled"
    assert run("systemctl", "is-active", "edgehost", code=3) == "inactive"
    run("dpkg", "--purge", "edgehost")


def test_a_function_runs_with_what_the_package_brings() -> None:
    run("dpkg", "--install", str(DEB))
    folder = Path("/var/lib/edgehost/functions/hello")
    folder.mkdir(parents=True)
    (folder / "main.py").write_text("def handler(context, event):\n    return b'hi ' + event.body\n")
    (folder / "function.toml").write_text('name = "hello"\nhandler = "main:handler"\n[triggers.web]\nkind = "http"\n')
    Path("/etc/edgehost/edgehost.toml").write_text(f'[agent]\nfunctions = ["{folder}"]\n')
    try:
        run("systemctl", "reload", "edgehost")
        assert run(PROGRAM, "invoke", "hello", "--body", "deb") == "hi deb"
        assert "running" in run(PROGRAM, "functions")
    finally:
        run("dpkg", "--purge", "edgehost")
