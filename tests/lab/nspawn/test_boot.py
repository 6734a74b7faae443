"""The container is what the tests beside this file take it for: systemd runs in it, and edgehost is installed from its wheel."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()


def test_systemd_is_process_1_and_runs() -> None:
    assert Path("/proc/1/comm").read_text().strip() == "systemd"
    assert said("systemctl", "is-system-running") == "running"


def test_edgehost_comes_from_its_wheel() -> None:
    assert "/opt/lab/lib/python3" in said("/opt/lab/bin/python", "-c", "import edgehost; print(edgehost.__file__)")
    assert said("edgehost", "--version").startswith("edgehost ")


def test_a_service_of_edgehost_comes_up() -> None:
    socket = "--socket=/run/smoke/control.sock"
    said("systemd-run", "--unit=smoke", "-p", "RuntimeDirectory=smoke", "edgehost", "agent", socket)
    try:
        deadline = time.monotonic() + 20.0
        while subprocess.run(["edgehost", "functions", socket], capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < deadline, said("journalctl", "-u", "smoke", "--no-pager")
            time.sleep(0.1)
        assert said("systemctl", "is-active", "smoke") == "active"
    finally:
        said("systemctl", "stop", "smoke")
