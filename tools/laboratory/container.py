"""A container with systemd as PID 1 on this kernel (systemd-nspawn): it boots in half a second, runs one command, and ends.

The command is a unit of the container; when it ends, systemd ends with its exit status, and systemd-nspawn hands that on. The
container sees the layers it is given and nothing of the host; what it changes is forgotten. It has no network and no devices.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.laboratory.command import LabError
from tools.laboratory.root import ENVIRONMENT, SOURCES, assembled

SHARED = "/run/host/lab"
UNIT = f"""\
[Unit]
Description=The command of the lab
After=multi-user.target
SuccessAction=exit-force
FailureAction=exit-force

[Service]
Type=exec
WorkingDirectory={SOURCES}
Environment=PATH={ENVIRONMENT}/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/bin/sh {SHARED}/command
StandardOutput=file:{SHARED}/output
StandardError=inherit
"""
CGROUPS = Path("/sys/fs/cgroup")
CONSOLE_LINES = 30


def run(layers: Sequence[Path], command: Sequence[str]) -> int:
    """Boot the layers, run the command as root, and return its exit status. Its output goes to standard output as it comes.

    Raises LabError, with the end of what the console showed, when the container does not come so far.
    """
    with tempfile.TemporaryDirectory(prefix="edgehost-lab-") as folder, assembled(layers) as root, _own_cgroup():
        shared, console = Path(folder), Path(folder) / "console"
        (shared / "command").write_text(f"exec {shlex.join(command)}\n")
        os.mkfifo(shared / "output")
        _enable(root)
        # The copier waits for a writer, and ends with the last one.
        with console.open("wb") as log, subprocess.Popen(["cat", shared / "output"]) as copier:
            status = subprocess.run(
                _nspawn(root, shared), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode
            try:
                copier.wait(1.0)
            except subprocess.TimeoutExpired as error:
                copier.kill()
                said = console.read_text("utf-8", "replace").splitlines()[-CONSOLE_LINES:]
                raise LabError("\n".join(["the container did not boot; its console:", *said])) from error
        return status


def _nspawn(root: Path, shared: Path) -> list[str]:
    return [
        *("systemd-nspawn", "--quiet", f"--directory={root}", f"--machine=edgehost-lab-{os.getpid()}"),
        *("--register=no", "--private-network", "--console=read-only", f"--bind-ro={shared}:{SHARED}"),
        *([] if _systemd_is_here() else ["--keep-unit"]),
        *("--boot", "--", "--show-status=false", "--log-target=journal"),
    ]


def _enable(root: Path) -> None:
    units = root / "etc/systemd/system"
    (units / "lab.service").write_text(UNIT)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants/lab.service").symlink_to("../lab.service")


def _systemd_is_here() -> bool:
    return Path("/run/systemd/system").is_dir()


@contextmanager
def _own_cgroup() -> Iterator[None]:
    """Where no systemd gives each container a scope: our own cgroup in systemd's hierarchies, gone with all in it afterwards.

    systemd-nspawn leaves its `payload` and `supervisor` groups behind, and two containers in one group would share them.
    """
    if _systemd_is_here():
        yield
        return
    hierarchies = [folder for folder in (CGROUPS / "systemd", CGROUPS / "unified", CGROUPS) if (folder / "cgroup.procs").exists()]
    groups = [folder / f"edgehost-lab-{os.getpid()}" for folder in hierarchies]
    for group in groups:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        for group in groups:
            (group.parent / "cgroup.procs").write_text(str(os.getpid()))
            if (group / "cgroup.kill").exists():
                (group / "cgroup.kill").write_text("1")
            for folder, _, _ in os.walk(group, topdown=False):
                _remove_group(Path(folder))


def _remove_group(group: Path) -> None:
    """A group can be removed a moment after its last process has died."""
    for _ in range(50):
        try:
            return group.rmdir()
        except OSError:
            time.sleep(0.1)
    return group.rmdir()
