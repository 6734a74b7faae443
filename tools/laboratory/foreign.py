"""Programs of another processor on this one: qemu-user runs each, the kernel is this machine's. No machine, no systemd."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tools.laboratory.command import LabError, call
from tools.laboratory.root import ENVIRONMENT, SOURCES, as_host, assembled

BINFMT = Path("/proc/sys/fs/binfmt_misc")
FORMAT = "qemu-aarch64"
WHERE = Path("/usr/lib/binfmt.d") / f"{FORMAT}.conf"
SELECTION = (
    *(f"tests/{name}" for name in ("framing", "manifest", "profile", "gpio", "polling", "sdk", "service", "tty")),
    *(f"tests/mqtt/test_{name}.py" for name in ("packets", "topics", "exchanges", "endpoint")),
    *(f"tests/test_{name}.py" for name in ("schedule", "backoff", "config", "reload", "state", "secrets", "reconnect", "batch")),
)
"""What does not depend on workers: qemu-user knows neither Landlock nor membarrier, and forks slowly."""
BEYOND = "--deselect=tests/tty/test_port.py::test_any_baud_rate_is_set"
"""It does not know the system call for unusual baud rates either (TCSETS2)."""


def register() -> None:
    """Have the kernel start aarch64 programs through qemu-user, as systemd-binfmt would where systemd runs."""
    if not (BINFMT / "register").exists():
        call("mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT)
    if (BINFMT / FORMAT).exists():
        return
    if not WHERE.exists():
        raise LabError(f"{WHERE} is missing: apt-get install qemu-user-static")
    (line,) = [line for line in WHERE.read_text().splitlines() if line and not line.startswith("#")]
    (BINFMT / "register").write_text(line)


def run(layers: Sequence[Path], command: Sequence[str]) -> int:
    """Run a command in the layers, as root, its output to ours; its exit status."""
    path = f"PATH={ENVIRONMENT}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    with assembled(layers) as root, as_host(root):
        inside = ["env", "-i", f"--chdir={SOURCES}", path, "HOME=/root", "LANG=C.UTF-8", *command]
        return subprocess.run(["chroot", root, *inside], stdin=subprocess.DEVNULL, env=dict(os.environ), check=False).returncode
