"""Things that are slow to make and do not change: each is a folder, made once and known by a digest of what it is made from.

A folder appears whole or not at all. Two labs started at once make it once; what nobody asked for in a week is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.laboratory.command import phase

PROJECT = Path(__file__).parents[2]
KEPT_S = 7 * 86_400


class Cache:
    """The folder $EDGEHOST_LAB_CACHE, or .cache/lab in the checkout."""

    def __init__(self) -> None:
        self.folder = Path(os.environ.get("EDGEHOST_LAB_CACHE") or PROJECT / ".cache" / "lab").resolve()
        self.folder.mkdir(parents=True, exist_ok=True)

    def made(self, name: str, recipe: object, make: Callable[[Path], None]) -> Path:
        """The folder for `name` and `recipe` (anything json can write: all that decides the content). `make(folder)` fills it."""
        digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
        target = self.folder / f"{name}-{digest}"
        if not target.exists():
            with self._lock(name):
                if not target.exists():
                    with phase(f"made {target.name}"):
                        self._make(target, make)
        os.utime(target)
        self._forget_old(name, target)
        return target

    def clean(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder)

    def _make(self, target: Path, make: Callable[[Path], None]) -> None:
        part = self.folder / f"{target.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            make(part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.rename(target)

    def _forget_old(self, name: str, target: Path) -> None:
        for folder in self.folder.glob(f"{name}-????????????"):
            if folder != target and time.time() - folder.stat().st_mtime > KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with (self.folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
