"""The cell of a worker: the cgroup, temporary folder and rules made for it before it is born, why it was ended, and what is
undone when it is gone. `Cells` makes them for all functions of an agent.

Knows limits and what holds them here; must not know frames, queues or zygotes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
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
        self._private = private | {path.resolve() for path in private}
        self._system: tuple[policy.Rule, ...] = ()

    @property
    def controllers(self) -> frozenset[str]:
        return self.tree.controllers if self.tree is not None else frozenset()

    def cell(self, spec: WorkerSpec) -> Cell:
        """A cell for the next worker of `spec`. Raises StartError if the sandbox is required and cannot be, or OSError."""
        confined = spec.sandbox.enabled and landlock.version() > 0
        if spec.sandbox.required and not confined:
            raise StartError(f"{spec.function}: sandbox.required: this kernel has no Landlock; boot it with lsm=landlock,…")
        temp = self._temp.make(spec.function)
        try:
            group = self._group(spec)
            bounds = Bounds(
                str(temp),
                group.procs if group is not None else "",
                # Where it may write elsewhere too, what a file there may hold is not for this limit to say.
                spec.limits.temp_bytes if confined and not spec.sandbox.write else None,
                self._tasks(spec.limits),
                self._rules(spec, temp) if confined else None,
                ports(spec.sandbox),
            )
        except BaseException:
            self._temp.remove(temp)
            raise
        excess = Excess(watched(spec.limits, self.controllers), temp)
        return Cell(replace(spec, bounds=bounds), group, excess, self._undo)

    def _group(self, spec: WorkerSpec) -> Group | None:
        if self.tree is not None and self.tree.holds(spec.limits):
            return self.tree.group(spec.function, spec.limits)
        return None

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
        if cell.group is not None and not cell.group.remove():
            # The last of it is on its way out of the kernel.
            asyncio.get_running_loop().call_later(_GONE_S, _remove, cell.group, 2 * _GONE_S)

    def close(self) -> None:
        """After the last worker: leave nothing behind."""
        self._temp.close()


def _remove(group: Group, again_s: float) -> None:
    if not group.remove() and again_s < 1.0:
        asyncio.get_running_loop().call_later(again_s, _remove, group, 2 * again_s)


def ports(sandbox: Sandbox) -> tuple[int, ...] | None:
    """The TCP ports the worker may use; None: all."""
    network = sandbox.network
    return None if network == "all" else () if network == "none" else network


def watched(limits: Limits, controllers: Collection[str]) -> Limits:
    """Those of the limits that somebody must look after, because neither the kernel nor a cgroup does."""
    return Limits(
        memory_bytes=None if "memory" in controllers else limits.memory_bytes,
        processes=None if "pids" in controllers else limits.processes,
        temp_bytes=limits.temp_bytes,
    )
