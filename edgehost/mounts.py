"""Mounts: on which file system a folder lies, as /proc/self/mountinfo has it.

    two mounts at one place    the later one counts
    overlay                    keeps what is written in its upper folder, which lies on another mount. That may be out of sight:
                               a container host's, or hidden since the overlay became the root
    /dev/root                  so a kernel without initramfs calls its root's device; /sys knows the name

Nothing is asked of the file systems themselves: one whose server is away would not answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct

_OCTAL = re.compile(r"\\([0-7]{3})")
"""Blanks and the like are written so."""


class Mount(Struct, frozen=True):
    """The file system `kind` from `source`, of which `root` is mounted at `point`."""

    root: PurePosixPath
    point: PurePosixPath
    device: str
    """Major and minor number, as in `179:2`."""
    kind: str
    source: str
    options: tuple[str, ...]
    """Those of the mount, then those of the file system."""

    def value(self, option: str) -> str:
        """What stands behind `option=`; "" without."""
        return next((one.partition("=")[2] for one in self.options if one.startswith(f"{option}=")), "")


def read(root: Path) -> list[Mount]:
    """Every mount this process sees; none if /proc is not there."""
    try:
        text = (root / "proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return []
    return [_mount(line) for line in text.splitlines() if " - " in line]


def mount_of(mounts: Sequence[Mount], place: Path) -> Mount | None:
    """The mount that `place`, a path without links, lies on."""
    over = [mount for mount in mounts if PurePosixPath(place).is_relative_to(mount.point)]
    return max(reversed(over), key=lambda mount: len(mount.point.parts), default=None)


def upper_of(mounts: Sequence[Mount], overlay: Mount) -> Mount | None:
    """The mount that an overlay's upper folder lies on; None if it has none, or one that cannot be seen from here."""
    upper = overlay.value("upperdir")
    found = mount_of(mounts, Path(upper)) if upper else None
    return None if found is overlay else found  # it cannot lie on itself: its own mount is out of sight


def device_name(root: Path, mount: Mount) -> str:
    """As in /dev: `mmcblk0p2`; "" of a file system that lies on no device."""
    try:
        return (root / "sys/dev/block" / mount.device).readlink().name
    except OSError:
        return mount.source.rpartition("/")[2] if mount.source.startswith("/dev/") else ""


def _mount(line: str) -> Mount:
    """proc(5): id parent device root point options [tags] - kind source options."""
    ours, _, theirs = line.partition(" - ")
    _, _, device, root, point, options, *_ = ours.split(" ")
    kind, source, more, *_ = [*theirs.split(" "), ""]
    both = (*options.split(","), *_plain(more).split(","))
    return Mount(PurePosixPath(_plain(root)), PurePosixPath(_plain(point)), device, kind, _plain(source), both)


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)
