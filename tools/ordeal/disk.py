"""A small file system of its own for the agent's state, which can be filled and emptied. Needs root; knows no agent."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from pathlib import Path

SIZE_MIB = 64
_BLOCK = b"\0" * (256 * 1024)


class Disk:
    """A tmpfs at `place`; `refusal` says why there is none, and then `place` is an ordinary folder that nobody fills."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.place = place
        self.refusal = ""
        self._filler = place / "filler"
        try:
            command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=700", "edgehost-chaos", str(place)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.refusal = f"no file system to fill could be mounted: {error}"
        else:
            if done.returncode:
                self.refusal = f"no file system to fill could be mounted: {done.stderr.strip()}"

    def fill(self) -> None:
        """Until not a byte more fits."""
        with suppress(_FullError), self._filler.open("wb", buffering=0) as file:
            for block in (_BLOCK, _BLOCK[:4096], _BLOCK[:1]):
                with suppress(_FullError):
                    while True:
                        _write(file.fileno(), block)

    def empty(self) -> None:
        """Room again."""
        self._filler.unlink(missing_ok=True)

    def close(self, keep: bool) -> None:
        """Unmount it; what was on it is copied beside it first if it is to be kept."""
        if self.refusal:
            return
        self.empty()
        if keep:
            subprocess.run(["cp", "-a", str(self.place), f"{self.place}-kept"], check=False, timeout=60)
        subprocess.run(["umount", str(self.place)], check=False, timeout=10)


class _FullError(Exception):
    """Not one more of this size."""


def _write(descriptor: int, block: bytes) -> None:
    try:
        os.write(descriptor, block)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _FullError from None
        raise
