"""The agent's share of the cgroup v2 tree: a group for the agent itself, and one for each worker with limits a group can hold.

    /sys/fs/cgroup/system.slice/edgehost.service/          what was delegated to us (systemd's Delegate=yes)
        agent/                                             the agent, its zygotes, workers without such limits
        worker.7.camera/                                   one worker and all it starts

Knows the files of cgroups(7); must not know functions, or what else holds a limit where there is no such tree.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from edgehost import mounts
from edgehost.manifest.model import Limits

log = logging.getLogger("edgehost.engine")

AGENT = "agent"
_WORKER = "worker."
CONTROLLERS = {"memory": "memory_bytes", "pids": "processes", "cpu": "cpu"}
"""Which controller holds which of the limits."""
_NOT_EVERYWHERE = frozenset({"memory.swap.max", "memory.oom.group"})
"""A kernel without swap (CONFIG_SWAP) has no file to forbid it with, and before Linux 4.19 the memory killer knew no groups."""
_PERIOD_US = 100_000
_PATIENCE_S = 1.0


class Group:
    """One worker's cgroup."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.procs = str(folder / "cgroup.procs")

    def killed_for_memory(self) -> bool:
        """Whether the kernel's memory killer was here."""
        return _counted(self._folder / "memory.events", "oom_kill") > 0

    def remove(self) -> bool:
        """End what is in it and remove it; False if something in it has not ended yet. Gone already is removed."""
        _kill(self._folder)
        try:
            self._folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True


class Tree:
    """What was delegated to this agent. `controllers` are those its workers' groups have."""

    def __init__(self, folder: Path, controllers: frozenset[str]) -> None:
        self.controllers = controllers
        self._folder = folder
        self._made = 0

    def holds(self, limits: Limits) -> bool:
        """Whether a group would hold any of these limits."""
        return any(getattr(limits, limit) is not None for name, limit in CONTROLLERS.items() if name in self.controllers)

    def group(self, function: str, limits: Limits) -> Group:
        """A group with these limits, empty. Raises OSError."""
        self._made += 1
        folder = self._folder / f"{_WORKER}{self._made}.{function}"
        folder.mkdir()
        try:
            for name, value in settings(limits, self.controllers).items():
                if name not in _NOT_EVERYWHERE or (folder / name).exists():
                    _set(folder / name, value)
        except OSError:
            folder.rmdir()
            raise
        return Group(folder)


def settings(limits: Limits, controllers: Iterable[str]) -> dict[str, str]:
    """The files of a group that hold `limits`, with what they say. Pure."""
    files: dict[str, str] = {}
    if "memory" in controllers and limits.memory_bytes is not None:
        # All at once, and not into swap: a worker that lost one child at random, or that crawls, is of no use.
        files |= {"memory.max": str(limits.memory_bytes), "memory.swap.max": "0", "memory.oom.group": "1"}
    if "pids" in controllers and limits.processes is not None:
        files["pids.max"] = str(limits.processes)
    if "cpu" in controllers and limits.cpu is not None:
        files["cpu.max"] = f"{max(1000, round(limits.cpu * _PERIOD_US))} {_PERIOD_US}"
    return files


def own_folder(root: Path = Path("/")) -> Path | None:
    """The folder of this process's cgroup v2; None where there is no cgroup v2."""
    path = next((line[3:] for line in _text(root / "proc/self/cgroup").splitlines() if line.startswith("0::")), None)
    mount = next((mount for mount in mounts.read(root) if mount.kind == "cgroup2"), None)
    if path is None or mount is None:
        return None
    return root / mount.point.relative_to("/") / os.path.relpath(path, mount.root)


def usable(folder: Path | None, pid: int) -> str:
    """Why the cgroup `folder` is not ours to divide; '' if it is. Changes nothing."""
    if folder is None:
        return "no cgroup v2"
    if not (folder / "cgroup.subtree_control").exists():
        return "no cgroup of its own"
    if not wanted_controllers(folder):
        return "its cgroup has none of the controllers memory, pids and cpu"
    if not all(os.access(folder / name, os.W_OK) for name in ("", "cgroup.procs", "cgroup.subtree_control")):
        return "its cgroup is not delegated to it"
    if _others(folder, pid):
        return "other processes are in its cgroup"
    return ""


def wanted_controllers(folder: Path) -> frozenset[str]:
    """Those of the group's controllers that hold a limit of ours."""
    return frozenset(_text(folder / "cgroup.controllers").split()) & CONTROLLERS.keys()


def claim(folder: Path | None) -> Tree | None:
    """Divide our cgroup: go into `agent/` and let the rest be for workers. None if it is not ours to divide.

    What an agent before us has left (it was killed) is ended and removed.
    """
    if folder is None or usable(folder, os.getpid()):
        return None
    try:
        _clean(folder)
        (folder / AGENT).mkdir(exist_ok=True)
        _set(folder / AGENT / "cgroup.procs", str(os.getpid()))
        return Tree(folder, _enable(folder, wanted_controllers(folder)))
    except OSError as error:
        log.warning("cgroup %s cannot be used (%s): limits are watched instead", folder, error.strerror)
        return None


def _enable(folder: Path, controllers: frozenset[str]) -> frozenset[str]:
    """One by one: a controller that refuses (realtime tasks keep `cpu` busy) leaves the others."""
    enabled = set()
    for name in sorted(controllers):
        try:
            _set(folder / "cgroup.subtree_control", f"+{name}")
            enabled.add(name)
        except OSError as error:
            log.warning("cgroup %s: the controller %s cannot be used: %s", folder, name, error.strerror)
    return frozenset(enabled)


def _clean(folder: Path) -> None:
    left = [Group(entry) for entry in folder.iterdir() if entry.is_dir() and entry.name.startswith(_WORKER)]
    end = time.monotonic() + _PATIENCE_S
    while left and time.monotonic() < end:
        left = [group for group in left if not group.remove()]
        if left:
            time.sleep(0.01)
    if left:
        log.warning("%d cgroups of an agent before this one cannot be removed", len(left))


def _kill(folder: Path) -> None:
    try:
        _set(folder / "cgroup.kill", "1")
    except OSError:  # before Linux 5.14, or gone
        for pid in _text(folder / "cgroup.procs").split():
            try:
                os.kill(int(pid), 9)
            except ProcessLookupError:
                pass


def _others(folder: Path, pid: int) -> bool:
    return any(one != str(pid) for one in _text(folder / "cgroup.procs").split())


def _counted(file: Path, name: str) -> int:
    rows = (line.split() for line in _text(file).splitlines())
    return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == name), 0)


def _set(file: Path, value: str) -> None:
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
