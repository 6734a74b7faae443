"""Whole files as events: taken when their writer is done, put away once the function has answered.

    found or touched     due, in that order; taken while the function has room
    still written        left; its end tells, or the next look. Where there is no telling it must hold still for `settle_s`
    answered             remembered, then kept, moved or deleted; a failure moves it to `failed_folder`
    stopped, not_ready   left as it is: the next look finds it again
    changed meanwhile    not put away; due again
    durable              answered when it is in the journal; one too large to be read when the function has answered: it alone
                         has the content
    its own trouble      told; the others are taken, and it is tried again at the next look
Must not know how files are found.
"""

from __future__ import annotations

import asyncio
import errno
import mimetypes
import os
import stat
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

from edgehost.event import EPOCH, Event, Response
from edgehost.intake import NOT_HANDLED, Intake, IntakeSettings
from edgehost.plugin import TriggerHost
from edgehost.triggers.file.folder import Found
from edgehost.triggers.file.memory import Memory, Outcome, Stamp
from edgehost.triggers.file.naming import readable, url_of
from edgehost.triggers.file.put_away import PutAway
from edgehost.triggers.file.settings import FileSettings
from edgehost.triggers.file.writers import Writers, is_being_written

_IN_FLIGHT_BYTES = 16 * 1024 * 1024
_PIECE_BYTES = 256 * 1024
_CLOCK_TICK_NS = 20_000_000
"""Two writes within one tick of the file system's clock leave the same time."""
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""Of the years 1 to 9999, which datetime has."""
_TYPES = mimetypes.MimeTypes()
"""Python's own table: /etc/mime.types differs from device to device."""

Trouble = Callable[[str, str], None]


class Whole:
    """The files of one folder; an Audience (folder.py)."""

    def __init__(self, settings: FileSettings, root: str, host: TriggerHost, memory: Memory, trouble: Trouble) -> None:
        self.trouble = trouble
        self._settings = settings
        self._root = root
        self._host = host
        self._memory = memory
        self._put_away = PutAway(settings, root)
        self._writers = Writers()
        self._intake = Intake(IntakeSettings(max_in_flight=settings.max_in_flight), host, self._wake)
        self._due: dict[str, bool] = {}
        """Path to whether its writer has told that it is done."""
        self._in_flight: dict[str, int] = {}
        """Path to the size of its body."""
        self._again: dict[str, bool] = {}
        """What became due while it was in flight."""
        self._first_look = memory.first_time and not settings.existing
        self._woken = asyncio.Event()

    @property
    def left_out(self) -> frozenset[str]:
        """Folders that are not looked into."""
        return frozenset(str(folder) for folder in self._put_away.folders.values())

    def prepare(self) -> None:
        """Raises TriggerError if files could not be put away."""
        self._put_away.prepare()

    def looked(self, found: list[Found], everything: bool) -> None:
        if everything:
            self._memory.seen([one.path for one in found])
        for one in found:
            if self._first_look:
                self._memory.remember(one.path, one.stamp, "left")
            elif not self._settled(one.path, one.stamp, closed=False):
                self._add(one.path, closed=False)
        self._first_look = False

    def begun(self, path: str, created: bool) -> None:
        self._writers.begin(path, created)

    def touched(self, path: str) -> None:
        self._writers.end(path)
        self._add(path, closed=True)

    def gone(self, path: str) -> None:
        """A name that comes again is a new file."""
        self._due.pop(path, None)
        self._writers.end(path)
        self._memory.forget(path)
        self.trouble(path, "")

    def unheard(self, folder: str) -> None:
        self._writers.forget(folder)

    async def stop(self) -> None:
        """Return when every file in flight has been answered and put away."""
        await self._intake.drain()

    def _add(self, path: str, closed: bool) -> None:
        due = self._again if path in self._in_flight else self._due
        due[path] = closed or due.get(path, False)
        self._wake()

    def _wake(self) -> None:
        self._woken.set()

    async def work(self) -> None:
        """Take what is due until cancelled."""
        while True:
            while self._due and not self._intake.full and sum(self._in_flight.values()) < _IN_FLIGHT_BYTES:
                path = next(iter(self._due))
                closed = self._due.pop(path)
                try:
                    await self._take(path, closed)
                except Exception as error:  # whatever it is: the other files are not held up by it
                    self._baffled(path, error)
            self._woken.clear()
            await self._woken.wait()

    def _baffled(self, path: str, error: Exception) -> None:
        self._host.log.exception("%s cannot be handled", readable(path))
        self._in_flight.pop(path, None)
        what = f"{type(error).__name__}: {error}"
        self.trouble(path, f"{path} cannot be handled: {what}; the log says where; it is tried again at every look")

    async def _take(self, path: str, closed: bool) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self.gone(path)
            return
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link, a socket: not for us
                self._unreadable(path, error)
            return
        try:
            await self._take_open(path, descriptor, closed)
        except OSError as error:
            self._unreadable(path, error)
        finally:
            os.close(descriptor)

    def _unreadable(self, path: str, error: OSError) -> None:
        self._host.counts["unreadable"] += 1
        self.trouble(path, f"{path} cannot be read: {error.strerror}; it is tried again at every look")

    async def _take_open(self, path: str, descriptor: int, closed: bool) -> None:
        status = os.fstat(descriptor)
        stamp = Stamp.of(status)
        if not stat.S_ISREG(status.st_mode) or self._settled(path, stamp, closed):
            return
        if self._unfinished(path, descriptor, stamp, closed):
            return
        known = self._memory.handled(path)
        change = "changed" if known is not None else "new"
        if self._settings.events not in (change, "both"):
            self._memory.remember(path, stamp, "left")
            self.trouble(path, "")
            return
        body = await _read(descriptor, stamp.size_bytes) if stamp.size_bytes <= self._settings.size_limit_bytes else None
        if Stamp.of(os.fstat(descriptor)) != stamp or (body is not None and len(body) != stamp.size_bytes):
            self._add_later(path, stamp)  # somebody writes it after all
            return
        event = self._event(path, stamp, body, change)
        self.trouble(path, "")
        self._in_flight[path] = len(event.body)
        fresh = time.time_ns() - stamp.mtime_ns < _CLOCK_TICK_NS
        self._intake.offer(event, partial(self._answered, path, stamp, fresh), asked=body is None)

    def _settled(self, path: str, stamp: Stamp, closed: bool) -> bool:
        """Whether nothing is to be done for this content of the file, or only what a move that failed has left to do."""
        known = self._memory.handled(path)
        if known is None or known.stamp != stamp or (closed and known.fresh):
            return False
        if path not in self._in_flight:
            self._put(path, stamp, known.outcome)
        return True

    def _unfinished(self, path: str, descriptor: int, stamp: Stamp, closed: bool) -> bool:
        """Whether somebody still writes it. One who is heard is waited for, however long nothing comes from him."""
        writing = is_being_written(descriptor)
        if writing is None:
            writing = self._writers.busy_with(path, stamp.size_bytes)
            if not writing and not closed and abs(time.time() - stamp.mtime_ns / 1e9) < self._settings.settle_s:
                self._add_later(path, stamp)
                return True
        return writing

    def _add_later(self, path: str, stamp: Stamp) -> None:
        """Due in `settle_s` if it holds still until then; else the next look sees to it."""
        asyncio.get_running_loop().call_later(self._settings.settle_s, self._add_if_still, path, stamp)

    def _add_if_still(self, path: str, stamp: Stamp) -> None:
        if _stamp(path) == stamp:
            self._add(path, closed=True)

    def _event(self, path: str, stamp: Stamp, body: bytes | None, change: str) -> Event:
        name, modified = readable(Path(path).name), in_calendar(stamp.mtime_ns)
        headers = {"name": name, "path": readable(path), "size": str(stamp.size_bytes), "mtime": modified, "change": change}
        if body is None:
            self._host.counts["too_large"] += 1
            headers["read"] = "false"
        return Event(
            body or b"",
            self._settings.content_type or _TYPES.guess_type(name)[0] or "application/octet-stream",
            f"{stamp.inode:x}-{stamp.mtime_ns:x}-{stamp.size_bytes:x}",
            datetime.now(timezone.utc),
            self._host.origin,
            readable(os.path.relpath(path, self._root)),
            headers,
            url=url_of(path),
        )

    def _answered(self, path: str, stamp: Stamp, fresh: bool, response: Response) -> None:
        self._in_flight.pop(path, None)
        if response.code not in NOT_HANDLED:
            outcome: Outcome = "failed" if response.failed else "done"
            self._memory.remember(path, stamp, outcome, fresh)
            self._put(path, stamp, outcome)
        if path in self._again:
            self._due[path] = self._again.pop(path)
        self._wake()

    def _put(self, path: str, stamp: Stamp, outcome: Outcome) -> None:
        try:
            left = self._put_away.put(path, stamp, outcome)
        except OSError as error:
            self.trouble(path, f"{path} cannot be put away: {error.strerror}; it is tried again at every look")
            return
        self.trouble(path, "")
        if left == "gone":
            self._memory.forget(path)
        elif left == "changed":
            self._add(path, closed=False)


def in_calendar(mtime_ns: int) -> str:
    """A file's time in ISO 8601. It may be any number that its file system can hold: the nearest that a calendar has."""
    milliseconds = min(max(mtime_ns // 1_000_000, _FIRST_MS), _LAST_MS)
    return (EPOCH + timedelta(milliseconds=milliseconds)).isoformat(timespec="milliseconds")


def _stamp(path: str) -> Stamp | None:
    try:
        return Stamp.of(Path(path).lstat())
    except OSError:
        return None


async def _read(descriptor: int, size_bytes: int) -> bytes:
    """The whole of it, with a turn of the loop after each piece: an SD card may be slow."""
    pieces = []
    while size_bytes > 0 and (piece := os.read(descriptor, min(size_bytes, _PIECE_BYTES))):
        pieces.append(piece)
        size_bytes -= len(piece)
        if size_bytes > 0:
            await asyncio.sleep(0)
    return b"".join(pieces)
