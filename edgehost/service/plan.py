"""What has to be done so that edgehost is a service here, or is none any more.

Pure: facts in, steps out; no step where all is as it should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from msgspec import Struct

from edgehost.service.files import CONFIG, JOURNAL, RETRY_UNIT, STATE, UNIT, File, Owner, removable

FUNCTIONS = STATE / "functions"
_RULED = ("gpio", "pwm", "tty")
"""What the udev rules are about."""


class Write(Struct, frozen=True):
    """A file gets this content."""

    path: PurePosixPath
    content: str
    new: bool

    def __str__(self) -> str:
        return f"{'write' if self.new else 'change'} {self.path}"


class Remove(Struct, frozen=True):
    """A file, or a folder with all that is in it, goes."""

    path: PurePosixPath

    def __str__(self) -> str:
        return f"remove {self.path}"


class Run(Struct, frozen=True):
    """A command is run. `may_fail`: then the rest goes on."""

    command: tuple[str, ...]
    may_fail: bool = False

    def __str__(self) -> str:
        return f"run {' '.join(self.command)}"


Step = Write | Remove | Run


class Facts(Struct, frozen=True):
    """What is so on the system now."""

    content: Mapping[PurePosixPath, str] = {}
    """Of every file of ours that is there."""
    user: bool = False
    """User edgehost and group gpio exist."""
    folders: bool = False
    """SECRETS and FUNCTIONS exist."""
    enabled: bool = False
    active: bool = False
    known: tuple[str, ...] = ()
    """Those of our units that systemd has: they may run, be starting, or wait for the next try."""
    live: bool = True
    """False: it is the root folder of a system that does not run now (an image that is being built)."""
    sysusers: bool = True
    """There is a systemd-sysusers; else useradd does it."""


def to_install(files: Sequence[File], facts: Facts, root: str, start: bool) -> list[Step]:
    """The steps, in order. `root` is the system's root folder, for the commands that are told it."""
    writes = [
        Write(file.path, file.content, file.path not in facts.content)
        for file in files
        if facts.content.get(file.path) != file.content and (file.ours or file.path not in facts.content)
    ]
    changed = {write.path for write in writes}
    at = () if root == "/" else (f"--root={root}",)
    steps: list[Step] = [*writes]
    if not facts.user:
        steps += _users(_named(files, "sysusers.d"), facts.sysusers, at)
    if not facts.folders or _named(files, "tmpfiles.d") in changed:
        steps.append(Run(("systemd-tmpfiles", *at, "--create", _named(files, "tmpfiles.d").name)))
    if facts.live:
        steps += _take_notice(files, changed, first=not facts.enabled)
    if not facts.enabled:
        steps.append(Run(("systemctl", *at, "enable", UNIT)))
    if facts.live and start:
        steps += _started(facts, changed)
    return steps


def _users(description: PurePosixPath, sysusers: bool, at: tuple[str, ...]) -> list[Step]:
    if sysusers:
        return [Run(("systemd-sysusers", *at, description.name))]  # looked for below `root`, as a path is not
    folder = ("--home-dir", str(STATE), "--shell", "/usr/sbin/nologin")
    group = Run(("groupadd", *at, "--system", "--force", "gpio"))
    return [group, Run(("useradd", *at, "--system", "--user-group", *folder, "edgehost"), may_fail=True)]


def _take_notice(files: Sequence[File], changed: set[PurePosixPath], first: bool) -> list[Step]:
    """Those who have read such a file already read it again. At the `first` install a package's rules are there already, and udev
    may have read them before there was the group they name.
    """
    steps: list[Step] = []
    if first or _named(files, "rules.d") in changed:
        steps.append(Run(("udevadm", "control", "--reload"), may_fail=True))
        steps.append(Run(("udevadm", "trigger", *(f"--subsystem-match={name}" for name in _RULED)), may_fail=True))
    if any(_is_unit(path) for path in changed):
        steps.append(Run(("systemctl", "daemon-reload")))
    if PurePosixPath(JOURNAL) in changed:
        steps.append(Run(("systemctl", "try-restart", "systemd-journald.service"), may_fail=True))
    return steps


def _started(facts: Facts, changed: set[PurePosixPath]) -> list[Step]:
    if not facts.active:
        return [Run(("systemctl", "start", UNIT))]
    return [Run(("systemctl", "restart", UNIT))] if any(_is_unit(path) for path in changed) else []


def _is_unit(path: PurePosixPath) -> bool:
    return path.name in (UNIT, RETRY_UNIT) or path.parent.name == f"{UNIT}.d"


def _named(files: Sequence[File], folder: str) -> PurePosixPath:
    return next(file.path for file in files if file.path.parent.name == folder)


def to_uninstall(owner: Owner, facts: Facts, root: str, purge: bool) -> list[Step]:
    """The steps, in order. Configuration and state stay unless `purge`; a package's own files go with the package."""
    at = () if root == "/" else (f"--root={root}",)
    steps: list[Step] = []
    if facts.live and facts.known:
        steps.append(Run(("systemctl", "stop", *facts.known)))
    if facts.enabled:
        steps.append(Run(("systemctl", *at, "disable", UNIT)))
    steps += [Remove(path) for path in removable(owner) if path in facts.content]
    if purge:
        steps += _purged(facts, at)
    if facts.live and any(isinstance(step, Remove) for step in steps):
        steps.append(Run(("systemctl", "daemon-reload")))
    return steps


def _purged(facts: Facts, at: tuple[str, ...]) -> list[Step]:
    steps: list[Step] = [Remove(CONFIG.parent)] if CONFIG in facts.content or facts.folders else []
    steps += [Remove(STATE)] if facts.folders else []
    return [*steps, Run(("userdel", *at, "edgehost"), may_fail=True)] if facts.user else steps
