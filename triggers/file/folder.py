"""A folder as the kernel tells of it, and as a look through it finds it: which files are there, which have just been written.

    opened                    looked through once; from then on inotify tells, at once
    rescan_s, queue overflow  looked through again: network file systems tell nothing, and the kernel's queue may overflow
    a new folder below        watched and looked through
    much is written           notices are read 100 times a second; of a flood of writes none is told for a second
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
_REST_S = 0.01
_FLOOD = 250
"""Writes told at once, after a rest: by several writers, for those of one are equal, and the kernel keeps one of them."""
_DEAF_S = 1.0


@dataclass(frozen=True)
class Found:
    """A regular file a look has found."""

    path: str
    stamp: Stamp


class Audience(Protocol):
    """Who is told."""

    def looked(self, found: list[Found], everything: bool) -> None:
        """What a look has found, oldest first; `everything`: what is not among them is not there."""

    def begun(self, path: str, created: bool) -> None:
        """A file was created or written to; `touched` will tell that it was closed. (Not told where `growing` is asked for.)"""

    def touched(self, path: str) -> None:
        """A file was closed by its writer or moved in (or, where `growing` is asked for, written to)."""

    def gone(self, path: str) -> None:
        """A file was deleted or moved out."""

    def unheard(self, folder: str) -> None:
        """What `begun` told of files below this folder may be over without a word: notices were lost, or it is watched anew."""

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
        writing = inotify.MODIFY | inotify.CREATE
        self._written = inotify.MOVED_TO | (writing if growing else inotify.CLOSE_WRITE)
        # An inbox needs both for files of other users, of which nothing else tells that they are still written (writers.py).
        # CREATE alone would say nothing of a file that is opened again, nor tell a new one from a link, which nobody will close;
        # OPEN is told of readers, too. MODIFY is a notice for each write: `_heard_writes` bounds what that costs.
        self._begun = 0 if growing else writing
        self._watches = self._written | self._begun | _STRUCTURE
        self._left_out = left_out
        self._inotify: Inotify | None = None
        self._watched: dict[int, str] = {}
        self._fresh: list[str] = []
        """Folders that have just come and were not looked through."""
        self._noted = ""
        """What of the note the look under way has found."""
        self._resting: asyncio.TimerHandle | None = None
        self._deafened: asyncio.TimerHandle | None = None
        self._lost = ""
        self._missed = False
        self._woken = asyncio.Event()

    async def follow(self, settled: Callable[[set[str]], None], rescan_s: float) -> None:
        """Tell the audience of every file until cancelled, and `settled` after each look at everything which files and folders it
        has met. Raises TriggerError when the folder is not there (any more)."""
        loop = asyncio.get_running_loop()
        identity = self._identity()
        self._open()
        try:
            while True:
                self._missed = False
                self._look_at(identity)
                settled(await self._look())
                next_s = loop.time() + rescan_s
                while not self._missed and loop.time() < next_s:
                    await self._woken_within(next_s - loop.time())
                    self._look_at(identity)
                    while self._fresh:
                        found, _ = await self._files(self._fresh.pop())
                        self._audience.looked(found, False)
        finally:
            self._close()

    async def _look(self) -> set[str]:
        """Look at everything."""
        if self._inotify is not None:
            self._noted = ""
        found, folders = await self._files(self._root)
        self.note = self._noted
        self._audience.looked(found, True)
        return {*folders, *(one.path for one in found)}

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
        self._lost, self._noted = "", ""
        self._fresh.clear()
        self._audience.unheard(self._root)
        try:
            self._inotify = Inotify()
        except OSError as error:
            self._noted = f"the kernel does not tell of changes ({error.strerror}; see fs.inotify.max_user_instances)"
            return
        self._listen()

    def _listen(self) -> None:
        assert self._inotify is not None
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._readable)

    def _heard_writes(self, count: int) -> None:
        """Somebody writes: hear nothing for a moment, in which equal notices become one; of a flood hear no writes for longer."""
        assert self._inotify is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._inotify.fileno())
        self._resting = loop.call_later(_REST_S, self._listen)
        if count > _FLOOD and self._deafened is None:
            self._watch_for(self._watches & ~inotify.MODIFY)
            self._deafened = loop.call_later(_DEAF_S, self._hear_writes)

    def _hear_writes(self) -> None:
        self._deafened = None
        self._watch_for(self._watches | inotify.MODIFY)

    def _watch_for(self, what: int) -> None:
        self._watches = what
        for folder in list(self._watched.values()):
            self._watch(folder)

    def _close(self) -> None:
        for timer in (self._resting, self._deafened):
            if timer is not None:
                timer.cancel()
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
        except (FileNotFoundError, PermissionError):
            return  # gone since; not to be read either, which the look tells
        except OSError as error:
            self.note = self._noted = (
                f"the kernel does not tell of every change ({error.strerror}; see fs.inotify.max_user_watches)"
            )

    async def _files(self, top: str) -> tuple[list[Found], list[str]]:
        """What is there from `top` down, oldest first, and the folders it was looked for in."""
        found, folders = list[Found](), list[str]()
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            folders.append(folder)
            self._watch(folder)
            async for entry in self._entries(folder):
                if entry.is_dir(follow_symlinks=False):
                    if self._recursive and entry.path not in self._left_out:
                        waiting.append(entry.path)
                elif self._wanted(entry.name) and (one := _regular(entry)) is not None:
                    found.append(one)
        return sorted(found, key=lambda one: (one.stamp.mtime_ns, one.path)), folders

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
        if folder != self._root:
            self._audience.trouble(folder, "")

    def _readable(self) -> None:
        assert self._inotify is not None
        notices = self._inotify.read()
        for notice in notices:
            folder = self._watched.get(notice.watch, "")
            if notice.what & inotify.QUEUE_OVERFLOW:
                self._counts["overflows"] += 1
                self._audience.unheard(self._root)
                self._missed = True
                self._woken.set()
            elif folder and notice.what & _GONE:
                self._gone(notice, folder)
            elif folder and notice.what & inotify.IS_DIR:
                self._folder(notice, f"{folder}/{notice.name}")
            elif folder and self._wanted(notice.name):
                self._file(notice.what, f"{folder}/{notice.name}")
        if writes := sum(bool(notice.what & self._begun & inotify.MODIFY) for notice in notices):
            self._heard_writes(writes)

    def _file(self, what: int, path: str) -> None:
        if what & self._written:
            self._audience.touched(path)
        elif what & self._begun:
            self._audience.begun(path, bool(what & inotify.CREATE))
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
        self._audience.unheard(path)
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
