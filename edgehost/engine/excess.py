"""Looks after the limits of one worker that nothing in the kernel holds for it: reads four times a second what it and its
children use, and kills it when that is too much. Between two looks it may use more.

Knows limits and usage; must not know how the worker is ended or replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Literal

from edgehost.engine import usage
from edgehost.manifest.model import Limits

_EVERY_S = 0.25
_SLICE_S, _PAUSE_S = 0.001, 0.02
"""A folder of many files is counted a little at a time: the loop has other work."""

Limit = Literal["memory", "processes", "temp"]


def in_words(limit: Limit, limits: Limits) -> str:
    """Why a worker was ended."""
    if limit == "processes":
        return f"more processes than limits.processes ({limits.processes})"
    size = limits.memory_bytes if limit == "memory" else limits.temp_bytes
    return f"used more than limits.{limit} ({size_in_words(size or 0)})"


def size_in_words(size: int) -> str:
    """`64 MiB`, `1.5 GiB`, `100,000 bytes`."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor and size * 10 % factor == 0:
            return f"{size / factor:g} {unit}"
    return f"{size:,} bytes"


class Excess:
    """One worker's watch. `limits` holds those to look after, all others None; without any it never looks."""

    def __init__(self, limits: Limits, temp: Path) -> None:
        self._limits = limits
        self._temp = temp
        self._task: asyncio.Task[None] | None = None
        self.verdict = ""

    def watch(self, pid: int, kill: Callable[[], None]) -> None:
        """Look until `end`. `kill` is called once, after `verdict` says why."""
        if self._limits != Limits():
            self._task = asyncio.get_running_loop().create_task(self._watch(pid, kill))

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self, pid: int, kill: Callable[[], None]) -> None:
        limit = None
        while limit is None:
            await asyncio.sleep(_EVERY_S)
            limit = await self._exceeded(pid)
        self.verdict = in_words(limit, self._limits)
        kill()

    async def _exceeded(self, pid: int) -> Limit | None:
        limits = self._limits
        pids = usage.family(pid, limits.processes)
        if limits.processes is not None and len(pids) > limits.processes:
            return "processes"
        if limits.memory_bytes is not None and usage.memory_bytes(pids, limits.memory_bytes) > limits.memory_bytes:
            return "memory"
        if limits.temp_bytes is not None and await self._temp_exceeded(pids, limits.temp_bytes):
            return "temp"
        return None

    async def _temp_exceeded(self, pids: list[int], most: int) -> bool:
        started = monotonic()
        for total in usage.temp_bytes(self._temp, pids):
            if total > most:
                return True
            if monotonic() - started > _SLICE_S:
                await asyncio.sleep(_PAUSE_S)
                started = monotonic()
        return False
