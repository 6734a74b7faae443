"""Watching function folders for changes (`edgehost run --watch`): compares times and sizes a few times a second; needs no
package.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

PERIOD_S = 0.4
_IGNORED = frozenset({"__pycache__", ".git", ".venv", "node_modules"})

Snapshot = dict[str, tuple[int, int]]


def snapshot(folder: Path) -> Snapshot:
    """Every file below `folder` with its modification time (ns) and size (bytes), but for caches and hidden tools' folders."""
    found: Snapshot = {}
    pending = [str(folder)]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue  # gone between two looks
        for entry in entries:
            if entry.name in _IGNORED or entry.name.endswith((".pyc", "~", ".swp")):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    status = entry.stat()
                    found[entry.path] = (status.st_mtime_ns, status.st_size)
            except OSError:
                continue
    return found


async def changes(folder: Path) -> AsyncIterator[None]:
    """Yields once whenever the folder has changed and then held still for one period: an editor's save is one change."""
    reported = last = snapshot(folder)
    while True:
        await asyncio.sleep(PERIOD_S)
        now = snapshot(folder)
        if now == last and now != reported:
            reported = now
            yield
        last = now
