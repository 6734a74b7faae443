"""Walks all that lies in a folder with one folder open at a time: a worker can make a tree deeper than a path may be long
(PATH_MAX), than calls may be nested in Python, or than there are descriptors.

    it comes to             it tells
    what is no folder       FILE
    a folder                FOLDER, and LEFT once all that lies in it is told

It goes down by names, and back up by `..` if that leads to where it came from. Knows folders and descriptors; must not know why
somebody walks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

Enter = Callable[[str, int | None], int]
"""A descriptor of the folder with this name in the open one. Raises OSError where it cannot be entered."""

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Step(NamedTuple):
    """What the walk came to: `name`, in the folder open as `at` until the next step."""

    what: Literal["FILE", "FOLDER", "LEFT"]
    name: str
    at: int


class _Way(NamedTuple):
    """The way out of the folder `name`: the numbers of the one that it lies in."""

    name: str
    device: int
    inode: int


def enter(name: str, at: int | None) -> int:
    """As its mode allows."""
    folder = os.open(name, _FLAGS, dir_fd=at)
    try:
        os.stat("..", dir_fd=folder)  # one that may be listed but not searched would have no way back
    except OSError:
        os.close(folder)
        raise
    return folder


def enter_anyway(name: str, at: int | None) -> int:
    """Whatever its mode, which is mended: for what is to be removed."""
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        itself = Path(f"/proc/self/fd/{place}")
        itself.chmod(0o700)
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(place)


def walk(top: str, enter: Enter = enter) -> Iterator[Step]:
    """All below `top`. Never raises: what vanishes meanwhile or cannot be entered is passed by, and if somebody moves the folder
    the walk is in, it ends.
    """
    try:
        walker = _Walker(enter(top, None), enter)
    except OSError:
        return
    try:
        yield from walker.steps()
    finally:
        os.close(walker.here)


class _Walker:
    def __init__(self, here: int, enter: Enter) -> None:
        self.here = here
        self._enter = enter
        self._todo: list[str | _Way] = []
        """Folders in the open one to go into, on top of the way out of it, on top of those beside it ..."""

    def steps(self) -> Iterator[Step]:
        yield from self._listed()
        while self._todo:
            ahead = self._todo.pop()
            if isinstance(ahead, str):
                if self._into(ahead):
                    yield from self._listed()
                else:
                    yield Step("LEFT", ahead, self.here)
            elif self._back(ahead):
                yield Step("LEFT", ahead.name, self.here)
            else:
                return

    def _listed(self) -> Iterator[Step]:
        try:
            with os.scandir(self.here) as entries:
                for entry in entries:
                    folder = entry.is_dir(follow_symlinks=False)
                    if folder:
                        self._todo.append(entry.name)
                    yield Step("FOLDER" if folder else "FILE", entry.name, self.here)
        except OSError:
            return

    def _into(self, name: str) -> bool:
        try:
            there = self._enter(name, self.here)
        except OSError:
            return False
        status = os.fstat(self.here)
        self._todo.append(_Way(name, status.st_dev, status.st_ino))
        self._go(there)
        return True

    def _back(self, way: _Way) -> bool:
        try:
            self._go(os.open("..", _FLAGS, dir_fd=self.here))
        except OSError:
            return False
        status = os.fstat(self.here)
        return (status.st_dev, status.st_ino) == (way.device, way.inode)

    def _go(self, there: int) -> None:
        os.close(self.here)
        self.here = there
