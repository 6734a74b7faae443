"""A worker from nothing to a handle: its cell, its channel, its output, the fork; and all of it undone when the worker is gone.

Knows what one worker needs; must not know how many there are, when one is replaced, or what they are given to do.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace

from edgehost.engine import sandbox
from edgehost.engine.cell import Cell
from edgehost.engine.handle import WorkerHandle
from edgehost.engine.nursery import Breed, Nursery, Process
from edgehost.engine.output import OutputPipe
from edgehost.engine.owner import Owner
from edgehost.engine.spec import WorkerSpec

Secrets = Callable[[], bytes]
"""Reads what the function's secrets are now, packed for its worker. Raises StartError."""


class Launcher:
    """Starts workers of one spec. `line` is called with each line a worker writes to its standard output."""

    def __init__(
        self,
        spec: WorkerSpec,
        nursery: Nursery,
        breed: Breed,
        secrets: Secrets | None,
        line: Callable[[str], None],
        log: logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._spec = spec
        self._nursery = nursery
        self._breed = breed
        self._secrets = secrets
        self._line = line
        self._log = log
        self._absent: list[str] = []

    async def launch(self, loop: asyncio.AbstractEventLoop, owner: Owner, worker_id: int) -> WorkerHandle:
        """A new worker process, loading. Raises StartError or OSError; nothing of it is left then."""
        self._tell_absent()
        with ExitStack() as undo:
            cell = self._nursery.cells.cell(replace(self._spec, worker_id=worker_id))
            undo.callback(cell.close)
            handle = WorkerHandle(loop, owner, worker_id, self._spec.concurrency)
            undo.callback(handle.channel.close)
            output = OutputPipe(loop, self._line)
            undo.callback(output.close)
            process = await self._fork(cell, handle.channel.descriptors(output.write_end))
            undo.pop_all()
        output.handed_over()
        process.verdict = cell.verdict
        handle.born(process)
        cell.born(process.pid, handle.kill)
        handle.ended.add_done_callback(lambda _: output.close())
        handle.ended.add_done_callback(lambda _: cell.close())
        return handle

    async def _fork(self, cell: Cell, descriptors: list[int]) -> Process:
        zygote = self._nursery.zygote(self._breed)
        if self._secrets is None or not self._spec.secrets:
            return await zygote.fork(cell.spec, descriptors)
        held = _in_memory(self._secrets())
        try:
            return await zygote.fork(cell.spec, [*descriptors, held])
        finally:
            os.close(held)

    def _tell_absent(self) -> None:
        absent = sandbox.missing(self._spec.sandbox, Path(self._spec.folder))
        if absent and absent != self._absent:
            self._log.warning("sandbox: %s is not there; a worker started later may use it", ", ".join(absent))
        self._absent = absent


def _in_memory(content: bytes) -> int:
    """A file in memory that holds `content`: read once by the worker it is handed to, and gone then."""
    descriptor = os.memfd_create("edgehost-secrets", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
