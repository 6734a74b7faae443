"""A local file as an answer: opened only inside given folders, sent in pieces. Knows nothing of who asked.

The file is opened first and judged by the name the kernel then gives it, so that no link swapped in between can lead outside.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path

PIECE_BYTES = 64 * 1024


class OpenFile:
    """A regular file as an async iterator of pieces, up to its size when opened; one that shrank ends early. Close it."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._fd = fd
        self._left = size_bytes

    def __aiter__(self) -> OpenFile:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)  # a fast client must not hold the loop for the length of a whole file
        piece = os.read(self._fd, min(self._left, PIECE_BYTES)) if self._left else b""
        if not piece:
            raise StopAsyncIteration
        self._left -= len(piece)
        return piece

    async def aclose(self) -> None:
        """Close the file. Once only."""
        os.close(self._fd)


def open_within(path: Path, folders: Sequence[Path]) -> OpenFile | None:
    """Open `path` if it is a regular file that really lies in one of `folders` (links followed); None otherwise."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # NONBLOCK: a FIFO must not hold the loop
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return None
    status = os.fstat(fd)
    real = Path(f"/proc/self/fd/{fd}").readlink()
    if stat.S_ISREG(status.st_mode) and any(real.is_relative_to(folder.resolve()) for folder in folders):
        return OpenFile(fd, status.st_size)
    os.close(fd)
    return None
