"""The private temporary folders of workers: one folder for the agent, in it one for each worker, gone when the worker is.

The agent's folder is locked while the agent lives, so that the next one can tell what a killed agent has left. Knows folders;
must not know workers or limits.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

from edgehost.engine import tree

_PREFIX = "edgehost-tmp-"
_SLICE_S = 0.001
"""A worker may leave a million files: the loop removes them for so long at a time."""


class TempFolders:
    """Made at first use. `close` removes all there is."""

    def __init__(self) -> None:
        self._root: Path | None = None
        self._lock = -1
        self._made = 0
        self._removals: set[asyncio.Task[None]] = set()

    def make(self, name: str) -> Path:
        """A new, empty folder for this user alone. Raises OSError."""
        if self._root is None:
            self._root, self._lock = _locked_root(Path(tempfile.gettempdir()))
        self._made += 1
        folder = self._root / f"{name}.{self._made}"
        folder.mkdir(mode=0o700)
        return folder

    def remove(self, folder: Path) -> None:
        """Remove it; at once if it is empty, else bit by bit."""
        try:
            folder.rmdir()
        except OSError:
            removal = asyncio.get_running_loop().create_task(_remove(folder))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    def close(self) -> None:
        """Remove everything now."""
        for removal in self._removals:
            removal.cancel()
        if self._root is not None:
            _remove_now(self._root)
            os.close(self._lock)
            self._root = None


async def _remove(folder: Path) -> None:
    started = monotonic()
    for _ in _removed(folder):
        if monotonic() - started > _SLICE_S:
            await asyncio.sleep(_SLICE_S)
            started = monotonic()


def _remove_now(folder: Path) -> None:
    for _ in _removed(folder):
        pass


def _removed(folder: Path) -> Iterator[None]:
    """Remove the tree, yielding before every step. Never raises: what cannot be removed now goes with the agent's folder."""
    for step in tree.walk(str(folder), tree.enter_anyway):
        yield
        try:
            if step.what == "FILE":
                os.unlink(step.name, dir_fd=step.at)
            elif step.what == "LEFT":
                os.rmdir(step.name, dir_fd=step.at)
        except OSError:
            continue
    try:
        folder.rmdir()
    except OSError:
        pass


def _locked_root(base: Path) -> tuple[Path, int]:
    """This agent's folder and the descriptor that locks it; folders of agents that are no more are removed."""
    for left in base.glob(f"{_PREFIX}*"):
        _remove_stale(left)
    while True:
        root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        with ExitStack() as undo:
            undo.callback(_remove_now, root)
            lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
            undo.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if root.exists():  # else another agent that starts now saw it before the lock
                undo.pop_all()
                return root, lock


def _remove_stale(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # another user's, or gone
        return
    try:
        if os.fstat(lock).st_uid != os.getuid():
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_now(folder)
    except OSError:  # its agent lives, or this file system has no locks
        pass
    finally:
        os.close(lock)
