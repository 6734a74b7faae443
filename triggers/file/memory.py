"""What the trigger remembers of files, across restarts: which content it has handled, and how far it has read.

Saved a few seconds after a change and at the end; a crash in between repeats what was handled since. Must not know folders.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from typing import Literal

from msgspec import Struct

from edgehost.errors import StateError
from edgehost.state import StateFile

Outcome = Literal["done", "failed", "left"]
"""left: seen, but no event was wanted of it."""

_SAVE_S = 5.0
_ABSENT = 10_000
"""Files that are not there and yet remembered."""


class Stamp(Struct, frozen=True, array_like=True):
    """Which content a path had. Without the device: its number is another after a restart of the machine."""

    inode: int
    mtime_ns: int
    size_bytes: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_ino, status.st_mtime_ns, status.st_size)


class Handled(Struct, frozen=True, array_like=True):
    """One content that needs no event any more."""

    stamp: Stamp
    outcome: Outcome
    fresh: bool = False
    """It was taken so soon after its last write that another one may bear the same time."""


class Position(Struct, frozen=True, array_like=True):
    """How far one file has been read. `head` is the CRC of its first `head_bytes`: a file of the same inode may be another."""

    offset_bytes: int
    head_bytes: int
    head: int


class Remembered(Struct):
    """The state file. Paths are bytes to the kernel: each character here is one of them."""

    handled: dict[str, Handled] = {}
    positions: dict[int, Position] = {}
    """By inode: a file that is rotated gets another name."""


class Memory:
    """One trigger's memory. `trouble(text)` is told when it cannot be saved, and with an empty text when it can again."""

    def __init__(self, file: StateFile[Remembered], trouble: Callable[[str], None]) -> None:
        self._file = file
        self._trouble = trouble
        self._loop = asyncio.get_running_loop()
        known = file.load()
        self.first_time = known is None
        """Nothing was remembered: the trigger runs for the first time."""
        known = known or Remembered()
        self._handled = {_path(key): value for key, value in known.handled.items()}
        self.positions = dict(known.positions)
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Future[None] | None = None

    def handled(self, path: str) -> Handled | None:
        return self._handled.get(path)

    def remember(self, path: str, stamp: Stamp, outcome: Outcome, fresh: bool = False) -> None:
        self._handled[path] = Handled(stamp, outcome, fresh)
        self.changed()

    def forget(self, path: str) -> None:
        if self._handled.pop(path, None) is not None:
            self.changed()

    def seen(self, paths: Collection[str]) -> None:
        """These are all there are now. The others may come back (an unmounted disk is an empty folder), so they are forgotten
        only when they are many."""
        if len(self._handled) > len(paths) + _ABSENT:
            for path in self._handled.keys() - set(paths):
                self.forget(path)

    def changed(self) -> None:
        """Save, within a few seconds."""
        if self._timer is None:
            self._timer = self._loop.call_later(_SAVE_S, self._save_soon)

    def _save_soon(self) -> None:
        self._timer = None
        if self._saving is not None and not self._saving.done():
            self.changed()  # the card is slow: once more, later
        else:
            self._saving = self._loop.run_in_executor(None, self._save, self._snapshot())

    def _snapshot(self) -> Remembered:
        return Remembered({_key(path): value for path, value in self._handled.items()}, dict(self.positions))

    def _save(self, value: Remembered) -> None:
        try:
            self._file.save(value)
        except StateError as error:
            self._loop.call_soon_threadsafe(self._trouble, str(error))
        else:
            self._loop.call_soon_threadsafe(self._trouble, "")

    async def close(self) -> None:
        """Save now, for the last time."""
        if self._timer is not None:
            self._timer.cancel()
        if self._saving is not None:
            await self._saving
        if self._timer is not None or self.first_time:
            await self._loop.run_in_executor(None, self._save, self._snapshot())


def _key(path: str) -> str:
    return os.fsencode(path).decode("latin-1")


def _path(key: str) -> str:
    return os.fsdecode(key.encode("latin-1"))
