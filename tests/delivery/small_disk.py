"""A disk of a few MiB that a test fills and empties: a tmpfs of its own. Mounting needs root; without it the test is skipped."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_PIECE = 16 * 1024


class SmallDisk:
    """One mounted tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    @property
    def free(self) -> int:
        about = os.statvfs(self.folder)
        return about.f_bavail * about.f_frsize

    def fill(self, leaving: int = 0) -> None:
        """Until no more than about `leaving` bytes are free."""
        with self._filler.open("ab", buffering=0) as file:
            for piece in (_PIECE, 4096):
                while self.free > leaving + (piece if leaving else 0):
                    try:
                        file.write(b"x" * piece)
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        break

    def empty(self) -> None:
        """Take away what `fill` has written."""
        self._filler.unlink(missing_ok=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    """`small_disk(size_bytes)`: mounted below tmp_path, gone with the test."""
    mounted: list[Path] = []

    def make(size_bytes: int) -> SmallDisk:
        if os.geteuid() != 0:
            pytest.skip("needs root to mount a tmpfs; CI runs it")
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return SmallDisk(folder)

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
