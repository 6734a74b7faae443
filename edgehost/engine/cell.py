"""The cell of a worker: the cgroup, temporary folder and rules made for it before it is born, why it was ended, and what is
undone when it is gone. `Cells` makes them for all functions of an agent.

Knows limits and what holds them here; must not know frames, queues or zygotes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace

from edgehost.engine import landlock, usage
from edgehost.engine import sandbox as policy
from edgehost.engine.cgroup import Group, Tree
from edgehost.engine.excess import Excess, in_words
from edgehost.engine.spec import Bounds, WorkerSpec
from edgehost.engine.temp import TempFolders
from edgehost.errors import StartError
from edgehost.manifest.model import Limits, Sandbox

_GONE_S = 0.01
_TASKS_SLACK = 64
"""RLIMIT_NPROC counts all tasks of the user, so what other functions start meanwhile counts against this one."""


class Cell:
    """One worker's. `spec` is what the worker is told; `excess` looks after the limits that no cgroup holds."""

    def __init__(self, spec: WorkerSpec, group: Group | None, excess: Excess, close: Callable[[Cell], None]) -> None:
        self.spec = spec
        self.group = group
        self._excess = excess
        self._close = close

    def born(self, pid: int, kill: Callable[[], None]) -> None:
        """The worker runs: watch it."""
        self._excess.watch(pid, kill)

    def verdict(self) -> str:
        """Which limit ended the worker, in words; '' if none did."""
        limits = self.spec.limits
        if self.group is not None and limits.memory_bytes is not None and self.group.killed_for_memory():
            return in_words("memory", limits)
        return self._excess.verdict

    def close(self) -> None:
        """The worker and all it started are gone: undo."""
        self._excess.end()
        self._close(self)


class Cells:
    """What an agent has to hold its workers with. `tree` is its share of the cgroups, `private` files no function may read."""

    def __init__(self, tree: Tree | None = None, private: frozenset[Path] = frozenset()) -> None:
        self.tree = tree
        self._temp = TempFolders()
        self.keep_private(private)

    def keep_private(self, private: frozenset[Path]) -> None:
        """From now on these files, and no others, are closed to every worker that starts."""
        self._private = private | {policy.real_path(path) for path in private}
        self._system: tuple[policy.Rule, ...] = ()

    @property
    def controllers(self) -> frozenset[str]:
        return self.tree.controllers if self.tree is not None else frozenset()

    def cell(self, spec: WorkerSpec) -> Cell:
        """A cell for the next worker of `spec`. Raises StartError if it cannot be made, or not as the sandbox requires; nothing
        of it is left then.
        """
        confined = spec.sandbox.enabled and landlock.version() > 0
        if spec.sandbox.required and not confined:
            raise StartError(f"{spec.function}: sandbox.required: this kernel has no Landlock; boot it with lsm=landlock,…")
        try:
            with ExitStack() as undo:
                cell = self._made(spec, confined, undo)
                undo.pop_all()
                return cell
        except OSError as error:
            raise StartError(f"{spec.function}: no temporary folder, cgroup or rules for its worker: {error}") from error

    def _made(self, spec: WorkerSpec, confined: bool, undo: ExitStack) -> Cell:
        temp = self._temp.make(spec.function)
        undo.callback(self._temp.remove, temp)
        group = self._group(spec, undo)
        look_after = watched(spec.limits, self.controllers)
        bounds = Bounds(
            str(temp),
            group.procs if group is not None else "",
            # Where it may write elsewhere too, what a file there may hold is not for this limit to say.
            spec.limits.temp_bytes if confined and not spec.sandbox.write else None,
            self._tasks(spec.limits),
            self._rules(spec, temp) if confined else None,
            ports(spec.sandbox),
            hidden(spec.secrets, confined, look_after),
        )
        return Cell(replace(spec, bounds=bounds), group, Excess(look_after, temp), self._undo)

    def _group(self, spec: WorkerSpec, undo: ExitStack) -> Group | None:
        if self.tree is None or not self.tree.holds(spec.limits):
            return None
        group = self.tree.group(spec.function, spec.limits)
        undo.callback(_remove, group, _GONE_S)
        return group

    def _tasks(self, limits: Limits) -> int | None:
        if limits.processes is None or "pids" in self.controllers:
            return None
        return usage.tasks_of_user(os.getuid()) + limits.processes + _TASKS_SLACK

    def _rules(self, spec: WorkerSpec, temp: Path) -> tuple[policy.Rule, ...]:
        self._system = self._system or policy.system_rules(policy.python_places(), self._private)
        own = policy.own_rules(spec.sandbox, Path(spec.folder), temp, spec.devices, self._private)
        return (*self._system, *own)

    def _undo(self, cell: Cell) -> None:
        self._temp.remove(Path(cell.spec.bounds.temp))
        if cell.group is not None:
            _remove(cell.group, _GONE_S)

    def close(self) -> None:
        """After the last worker: leave nothing behind."""
        self._temp.close()


def _remove(group: Group, again_s: float) -> None:
    """At once, or when the last of it has left the kernel."""
    if not group.remove() and again_s < 1.0:
        asyncio.get_running_loop().call_later(again_s, _remove, group, 2 * again_s)


def ports(sandbox: Sandbox) -> tuple[int, ...] | None:
    """The TCP ports the worker may use; None: all."""
    network = sandbox.network
    return None if network == "all" else () if network == "none" else network


def hidden(secrets: Collection[str], confined: bool, look_after: Limits) -> bool:
    """Whether the worker closes its memory even to processes of its own user. Landlock keeps other workers out without that; and
    a hidden process shows its use to nobody, so the limits that somebody must look after come first.
    """
    return bool(secrets) and not confined and look_after == Limits()


def watched(limits: Limits, controllers: Collection[str]) -> Limits:
    """Those of the limits that somebody must look after, because neither the kernel nor a cgroup does."""
    return Limits(
        memory_bytes=None if "memory" in controllers else limits.memory_bytes,
        processes=None if "pids" in controllers else limits.processes,
        temp_bytes=limits.temp_bytes,
    )
