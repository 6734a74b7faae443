"""A folder as the kernel tells of it, and as a look through it finds it: which files are there, which have just been written.

    opened                    looked through once; from then on inotify tells, at once
    rescan_s, queue overflow  looked through again: network file systems tell nothing, and the kernel's queue may overflow
    a new folder below        watched and looked through
    gone, moved, unmounted, another in its place      TriggerError
Must not know what becomes of a file.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgehost import inotify
from edgehost.errors import TriggerError
from edgehost.inotify import Inotify, Notice
from edgehost.triggers.file.memory import Stamp

_GONE = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.UNMOUNT | inotify.IGNORED
_AWAY = inotify.MOVED_FROM | inotify.DELETE
_STRUCTURE = inotify.CREATE | inotify.MOVED_TO | _AWAY | inotify.DELETE_SELF | inotify.MOVE_SELF
_AT_ONCE = 200
"""Entries of a folder between two turns of the loop."""


@dataclass(frozen=True)
class Found:
    """A regular file a look has found."""

    path: str
    stamp: Stamp


class Audience(Protocol):
    """Who is told."""

    def looked(self, found: list[Found], everything: bool) -> None:
        """What a look has found, oldest first; `everything`: what is not among them is not there."""

    def touched(self, path: str) -> None:
        """A file was closed by its writer or moved in (or, where `growing` is asked for, written to)."""

    def gone(self, path: str) -> None:
        """A file was deleted or moved out."""

    def trouble(self, path: str, text: str) -> None:
        """Something a person must mend; an empty text: mended."""


class Folder:
    """One folder, `follow`ed for as long as it is there."""

    def __init__(
        self,
        root: str,
        wanted: Callable[[str], bool],
        audience: Audience,
        counts: Counter[str],
        *,
        recursive: bool,
        growing: bool,
        left_out: frozenset[str],
    ) -> None:
        self.note = ""
        """Why the kernel does not tell of every change; empty when it does."""
        self._root = root
        self._wanted = wanted
        self._audience = audience
        self._counts = counts
        self._recursive = recursive
        self._written = inotify.MOVED_TO | (inotify.MODIFY | inotify.CREATE if growing else inotify.CLOSE_WRITE)
        self._watches = self._written | _STRUCTURE
        self._left_out = left_out
        self._inotify: Inotify | None = None
        self._watched: dict[int, str] = {}
        self._fresh: list[str] = []
        """Folders that have just come and were not looked through."""
        self._lost = ""
        self._missed = False
        self._woken = asyncio.Event()

    async def follow(self, settled: Callable[[], None], rescan_s: float) -> None:
        """Tell the audience of every file until cancelled. Raises TriggerError when the folder is not there (any more)."""
        loop = asyncio.get_running_loop()
        identity = self._identity()
        self._open()
        try:
            while True:
                self._missed = False
                self._look_at(identity)
                self._audience.looked(await self._files(self._root), True)
                settled()
                next_s = loop.time() + rescan_s
                while not self._missed and loop.time() < next_s:
                    await self._woken_within(next_s - loop.time())
                    self._look_at(identity)
                    while self._fresh:
                        self._audience.looked(await self._files(self._fresh.pop()), False)
        finally:
            self._close()

    def _identity(self) -> tuple[int, int]:
        try:
            status = Path(self._root).stat()
        except OSError as error:
            raise TriggerError(f"{self._root} is not there ({error.strerror}); create the folder or mend path") from None
        if not stat.S_ISDIR(status.st_mode):
            raise TriggerError(f"{self._root} is not a folder; name the folder in path and the files in pattern")
        return status.st_dev, status.st_ino

    def _look_at(self, identity: tuple[int, int]) -> None:
        if self._lost:
            raise TriggerError(self._lost)
        if self._identity() != identity:
            raise TriggerError(f"{self._root} is another folder now (mounted, or replaced)")

    def _open(self) -> None:
        self.note, self._lost = "", ""
        self._fresh.clear()
        try:
            self._inotify = Inotify()
        except OSError as error:
            self.note = f"the kernel does not tell of changes ({error.strerror}; see fs.inotify.max_user_instances)"
            return
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._readable)

    def _close(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None
        self._watched.clear()

    async def _woken_within(self, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()
        self._woken.clear()

    def _watch(self, folder: str) -> None:
        """Before a look at it: what comes between the two is told, and what was there before is found."""
        if self._inotify is None:
            return
        try:
            self._watched[self._inotify.watch(folder, self._watches)] = folder
        except FileNotFoundError:
            return
        except OSError as error:
            self.note = f"the kernel does not tell of every change ({error.strerror}; see fs.inotify.max_user_watches)"

    async def _files(self, top: str) -> list[Found]:
        found = []
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            self._watch(folder)
            async for entry in self._entries(folder):
                if entry.is_dir(follow_symlinks=False):
                    if self._recursive and entry.path not in self._left_out:
                        waiting.append(entry.path)
                elif self._wanted(entry.name) and (one := _regular(entry)) is not None:
                    found.append(one)
        return sorted(found, key=lambda one: (one.stamp.mtime_ns, one.path))

    async def _entries(self, folder: str) -> AsyncIterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                for count, entry in enumerate(entries, 1):
                    yield entry
                    if count % _AT_ONCE == 0:
                        await asyncio.sleep(0)
        except FileNotFoundError:
            return
        except OSError as error:
            if folder == self._root:
                raise TriggerError(f"{folder} cannot be read: {error.strerror}; give this user the right to") from None
            self._audience.trouble(folder, f"{folder} cannot be read: {error.strerror}; give this user the right to")
            return
        self._audience.trouble(folder, "")

    def _readable(self) -> None:
        assert self._inotify is not None
        for notice in self._inotify.read():
            folder = self._watched.get(notice.watch, "")
            if notice.what & inotify.QUEUE_OVERFLOW:
                self._counts["overflows"] += 1
                self._missed = True
                self._woken.set()
            elif folder and notice.what & _GONE:
                self._gone(notice, folder)
            elif folder and notice.what & inotify.IS_DIR:
                self._folder(notice, f"{folder}/{notice.name}")
            elif folder and self._wanted(notice.name):
                self._file(notice.what, f"{folder}/{notice.name}")

    def _file(self, what: int, path: str) -> None:
        if what & self._written:
            self._audience.touched(path)
        elif what & _AWAY:
            self._audience.gone(path)

    def _gone(self, notice: Notice, folder: str) -> None:
        if folder == self._root:
            how = "was moved away" if notice.what & inotify.MOVE_SELF else "is gone"
            self._lost = f"{folder} {how}; put it back or mend path"
            self._woken.set()
        elif not notice.what & inotify.MOVE_SELF:
            self._watched.pop(notice.watch, None)

    def _folder(self, notice: Notice, path: str) -> None:
        if not self._recursive or path in self._left_out:
            return
        if notice.what & inotify.MOVED_FROM:
            self._unwatch(path)
        elif notice.what & (inotify.CREATE | inotify.MOVED_TO):
            self._fresh.append(path)
            self._woken.set()

    def _unwatch(self, path: str) -> None:
        """It bears another name now, and so does all below it."""
        assert self._inotify is not None
        below = [number for number, folder in self._watched.items() if folder == path or folder.startswith(f"{path}/")]
        for number in below:
            del self._watched[number]
            self._inotify.unwatch(number)


def _regular(entry: os.DirEntry[str]) -> Found | None:
    """Links, pipes and devices are left alone: what a folder may be written to by others must not lead out of it."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return None  # gone since
    return Found(entry.path, Stamp.of(status)) if stat.S_ISREG(status.st_mode) else None
