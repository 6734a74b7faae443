"""What of a profile is really so on this machine: which quirks hold now, which ports and sensors there are. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

from msgspec import Struct

from edgehost.profile.facts import text
from edgehost.profile.model import Profile, Sign

VersionOf = Callable[[str], str]
"""The version of an installed package; raises PackageNotFoundError."""


class Here(Struct, frozen=True):
    """What was found. A quirk that shows no sign is not in `quirks`."""

    quirks: dict[str, bool]
    serial: dict[str, str]
    """Name = the device it leads to (`/dev/ttyS0`), empty when there is none."""
    thermal: dict[str, float]
    """Type of a zone = its temperature in °C."""
    watchdog: str = ""
    """As the driver of /dev/watchdog0 calls itself; empty without one."""


def look(profile: Profile, root: Path, release: str, version: VersionOf = metadata.version) -> Here:
    """Compare a profile with the machine at `root`, whose running kernel is `release`."""
    return Here(
        {name: holds(quirk.sign, root, release, version) for name, quirk in profile.quirks.items() if quirk.sign},
        {name: _device(root, port.path) for name, port in profile.serial.items()},
        {kind: heat for kind, heat in _temperatures(root).items() if kind in profile.thermal},
        text(root / "sys/class/watchdog/watchdog0/identity"),
    )


def holds(sign: Sign, root: Path, release: str, version: VersionOf) -> bool:
    """Whether everything the sign gives is so."""
    return (
        (not sign.controller_missing or sign.controller_missing not in controllers(root))
        and (not sign.kernel_argument or any(fnmatchcase(word, sign.kernel_argument) for word in _command_line(root)))
        and (not sign.kernel_below or _numbers(release) < _numbers(sign.kernel_below))
        and (not sign.package or _installed(sign.package, version))
        and (not sign.path or _under(root, sign.path).exists())
        and (not sign.path_missing or not _under(root, sign.path_missing).exists())
    )


def controllers(root: Path) -> frozenset[str]:
    """The cgroup controllers the kernel offers: of the unified hierarchy, else those of version 1 that are switched on."""
    unified = root / "sys/fs/cgroup/cgroup.controllers"
    if unified.exists():
        return frozenset(text(unified).split())
    rows = (line.split() for line in text(root / "proc/cgroups").splitlines() if not line.startswith("#"))
    return frozenset(row[0] for row in rows if len(row) == 4 and row[3] == "1")


def _command_line(root: Path) -> list[str]:
    return text(root / "proc/cmdline").split()


def _numbers(release: str) -> tuple[int, ...]:
    """6.1.0-56-arm64 as (6, 1)."""
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])


def _installed(wanted: str, version: VersionOf) -> bool:
    name, _, pattern = wanted.partition(" ")
    try:
        return fnmatchcase(version(name), pattern)
    except metadata.PackageNotFoundError:
        return False


def _device(root: Path, path: str) -> str:
    device = _under(root, path)
    return f"/{device.resolve().relative_to(root.resolve())}" if device.exists() else ""


def _under(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _temperatures(root: Path) -> dict[str, float]:
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    read = {text(zone / "type"): text(zone / "temp") for zone in zones}
    return {kind: int(heat) / 1000 for kind, heat in read.items() if re.fullmatch(r"-?\d+", heat)}
