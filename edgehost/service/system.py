"""The system edgehost is installed into: looks at it for the plan, and carries the plan's steps out. Must not know why a step is
taken.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import edgehost
from edgehost.errors import InstallError
from edgehost.profile import Profile
from edgehost.service.files import (
    CONFIG,
    DEVICE_GROUPS,
    FOLDERS_FROM,
    PROGRAM,
    RETRY_UNIT,
    SECRETS,
    UNIT,
    Device,
    File,
    Owner,
    below,
    removable,
    watchdog_s,
)
from edgehost.service.plan import FUNCTIONS, Facts, Remove, Step, Write

_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What ProtectHome= and PrivateTmp= of the unit take out of the service's sight."""
_LIBRARIES = ("lib/systemd", "usr/lib/systemd", "usr/lib/*/systemd")
"""Where systemd's own library is, which has its version in its name."""
_ADVICE = (
    "make an environment that every user can read: sudo python3 -m venv /opt/edgehost && "
    "sudo /opt/edgehost/bin/pip install edgehost && sudo /opt/edgehost/bin/edgehost install"
)


def runs_here(root: Path) -> bool:
    """Whether the system below `root` is this one, and systemd runs it."""
    return root == Path("/") and Path("/run/systemd/system").is_dir()


def check_able(root: Path, start: bool = False) -> None:
    """Raise InstallError if this process cannot do it at all: not root, no systemd (or none that runs, and it is to `start`)."""
    if os.geteuid() != 0:
        raise InstallError(f"this changes the system: run it as root, sudo {_program()} {' '.join(sys.argv[1:])}")
    if shutil.which("systemctl") is None or (start and root == Path("/") and not runs_here(root)):
        raise InstallError(
            f"systemd does not run here: have this system's own service manager run `{_program()} agent --config {CONFIG}`, or, "
            f"if systemd will run it later (a container's or an image's root folder), give --no-start"
        )


def program_for(root: Path) -> PurePosixPath:
    """What the unit calls. Raises InstallError if the service could not read it."""
    if root != Path("/"):
        return PROGRAM
    for place in (_program(), Path(sys.prefix), Path(sys.base_prefix), Path(edgehost.__file__).parent):
        check_readable(place)
    return PurePosixPath(_program())


def check_readable(place: Path) -> None:
    """Raise InstallError if user edgehost could not read this file or folder in the service."""
    real = place.resolve()
    for hidden in _HIDDEN:
        if real.is_relative_to(hidden):
            raise InstallError(f"{place} is below {hidden}, which the service cannot see (ProtectHome=, PrivateTmp=); {_ADVICE}")
    for part in (real, *real.parents):
        if not part.stat().st_mode & stat.S_IXOTH and part.is_dir():
            raise InstallError(f"{part} can be entered by some users only, and the service is not one of them; {_ADVICE}")


def _program() -> Path:
    beside = Path(sys.executable).with_name("edgehost")
    found = beside if beside.exists() else Path(shutil.which("edgehost") or sys.argv[0])
    return found.absolute()


def look_at_device(root: Path, profile: Profile | None, watchdog: bool, small_journal: bool | None) -> Device:
    """What the files depend on. `profile` None: not known (an image for many boards); `small_journal` None: if it has a card."""
    groups = {line.partition(":")[0] for line in _text(root / "etc/group").splitlines()}
    live = root == Path("/")
    board = profile.watchdog if profile is not None and watchdog else None
    there = board is not None and (not live or Path("/dev/watchdog").exists())
    on_card = profile is not None and bool({"sd", "emmc"} & set(profile.storage.kinds))
    return Device(
        # `gpio` is made by our own sysusers.conf where it is missing.
        groups=tuple(name for name in DEVICE_GROUPS if name in groups or name == "gpio"),
        pwm=tuple(sorted(str(chip.resolve()) for chip in Path("/sys/class/pwm").glob("pwmchip*"))) if live else (),
        watchdog_s=watchdog_s(board.max_timeout_s) if board is not None and there else 0,
        small_journal=on_card if small_journal is None else small_journal,
        secrets=None if systemd_version(root) >= FOLDERS_FROM else _secrets(root),
    )


def systemd_version(root: Path) -> int:
    """That of the system below `root`, which need not be able to run here; 0 where it is not found."""
    libraries = (path.name for folder in _LIBRARIES for path in root.glob(f"{folder}/libsystemd-shared-*.so"))
    return max((int(number) for name in libraries for number in re.findall(r"-(\d+)", name)), default=0)


def _secrets(root: Path) -> tuple[str, ...]:
    """What a credential can be named after; a `:` ends the name there."""
    try:
        return tuple(sorted(path.name for path in below(root, SECRETS).iterdir() if path.is_file() and ":" not in path.name))
    except OSError:
        return ()


def look(root: Path, files: Sequence[File], owner: Owner) -> Facts:
    """How it is now."""
    live = runs_here(root)
    paths = {*(file.path for file in files), *removable(owner), CONFIG}
    there = {path: below(root, path) for path in paths}
    users, groups = _text(root / "etc/passwd"), _text(root / "etc/group")
    wants = root / "etc/systemd/system/multi-user.target.wants" / UNIT
    return Facts(
        content={path: _text(real) for path, real in there.items() if real.is_file()},
        user="\nedgehost:" in f"\n{users}" and "\ngpio:" in f"\n{groups}",
        folders=all(below(root, folder).is_dir() for folder in (SECRETS, FUNCTIONS)),
        enabled=wants.is_symlink(),
        active=live and subprocess.run(["systemctl", "is-active", "--quiet", UNIT], check=False).returncode == 0,
        known=tuple(unit for unit in (UNIT, RETRY_UNIT) if live and _known(unit)),
        live=live,
        sysusers=shutil.which("systemd-sysusers") is not None,
    )


def _known(unit: str) -> bool:
    """Whether systemd has it, if only because it runs on without its file."""
    command = ["systemctl", "show", "--property=LoadState,ActiveState", unit]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return "LoadState=not-found" not in shown or not {"ActiveState=inactive", "ActiveState=failed"} & set(shown)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def carry_out(step: Step, root: Path) -> None:
    """Do one step. Raises InstallError, with what the command said."""
    try:
        if isinstance(step, Write):
            _write(below(root, step.path), step.content)
        elif isinstance(step, Remove):
            _remove(below(root, step.path))
        else:
            _run(step.command, step.may_fail)
    except OSError as error:
        raise InstallError(f"cannot {step}: {error.strerror or error}") from error


def _write(path: Path, content: str) -> None:
    """All of it or nothing: a power cut in between leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.chmod(0o644)
    beside.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
        return
    path.unlink(missing_ok=True)
    if path.parent.name == f"{UNIT}.d" and not any(path.parent.iterdir()):
        path.parent.rmdir()


def _run(command: Sequence[str], may_fail: bool) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        said = " ".join((done.stderr or done.stdout).split())
        raise InstallError(f"`{' '.join(command)}` failed with exit status {done.returncode}: {said}")
