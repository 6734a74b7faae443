"""Growing files as events: what is appended is cut by the framing, and how far the function has answered is remembered.

    grown                read on from where it was, while the function has room
    shorter, or another
    beginning            truncated (copytruncate): read from its start
    renamed              the same file: read to its end, under whatever name
    no name any more     read to its end, then closed; a last line needs no terminator
    stopped, not_ready   read again from the last answered place, at the next look
A file is known by its inode and its first bytes. Must not know how files are found.
"""

from __future__ import annotations

import asyncio
import os
import stat
import zlib
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from edgehost.event import Event, Response
from edgehost.framing import Line, make_codec
from edgehost.intake import NOT_HANDLED, Intake, IntakeSettings
from edgehost.numbering import Numbering
from edgehost.plugin import TriggerHost
from edgehost.triggers.file.folder import Found
from edgehost.triggers.file.memory import Memory, Position
from edgehost.triggers.file.naming import readable, url_of
from edgehost.triggers.file.settings import FileSettings

_PIECE_BYTES = 64 * 1024
_HEAD_BYTES = 256
_MOST_FILES = 1000
"""Each holds a descriptor."""


class Tail:
    """One open file and how far it has been read."""

    def __init__(self, path: str, descriptor: int, settings: FileSettings) -> None:
        self.path = path
        self.descriptor = descriptor
        self.inode = os.fstat(descriptor).st_ino
        self.codec = make_codec(settings.framing or Line())
        self.begin_at(0)
        self.head = b""
        self.named = True
        """Whether the last look has found it in the folder."""
        self.over = False
        self.unread = False
        """Its last read failed, and that was told."""

    def begin_at(self, offset: int) -> None:
        """Read on from there, with nothing begun."""
        self.offset = self.clean = self.answered = offset
        self.in_flight = 0
        self.again = False
        """Something was not handled: no further, and back to `answered` at the next look."""
        self.turn = object()
        """Another one for each beginning: answers to what was read before it say nothing of this one."""
        self.codec.reset()

    def position(self) -> Position:
        head = self.head[: self.answered]
        return Position(self.answered, len(head), zlib.crc32(head))

    def is_another(self) -> bool:
        """Whether the file was cut, or cut and written anew."""
        if os.fstat(self.descriptor).st_size < self.offset or not self._begins_as_before():
            self.head = b""
            return True
        if len(self.head) < _HEAD_BYTES:
            self.head = os.pread(self.descriptor, _HEAD_BYTES, 0)
        return False

    def _begins_as_before(self) -> bool:
        return os.pread(self.descriptor, len(self.head), 0) == self.head


class Tails:
    """The growing files of one folder; an Audience (folder.py)."""

    def __init__(
        self, settings: FileSettings, root: str, host: TriggerHost, memory: Memory, trouble: Callable[[str, str], None]
    ) -> None:
        self.trouble = trouble
        self._settings = settings
        self._terminators = settings.terminators()
        self._root = root
        self._host = host
        self._memory = memory
        self._intake = Intake(IntakeSettings(max_in_flight=settings.max_in_flight), host, self._wake)
        self._tails: dict[int, Tail] = {}
        self._due: dict[int, None] = {}
        self._at_end = memory.first_time and not settings.existing
        self._crowded = False
        """Whether the look under way has found more files than may be open."""
        self._woken = asyncio.Event()
        self._told_no_id = False
        self._ids = Numbering(host.origin.name)

    left_out: frozenset[str] = frozenset()

    def prepare(self) -> None:
        """Nothing is moved."""

    def looked(self, found: list[Found], everything: bool) -> None:
        self._crowded = False
        for one in found:
            self._meet(one.path, one.stamp.inode)
        self._at_end = False
        if everything:
            self._miss({one.stamp.inode for one in found})
            if not self._crowded:
                self.trouble(self._root, "")

    def begun(self, path: str, created: bool) -> None:
        """Not told: a file that grows is read as it does."""

    def unheard(self, folder: str) -> None:
        """Nothing is known of writers."""

    def touched(self, path: str) -> None:
        try:
            status = Path(path).lstat()
        except OSError:
            return  # gone again; its descriptor has what it held
        if stat.S_ISREG(status.st_mode):
            self._meet(path, status.st_ino)

    def gone(self, path: str) -> None:
        for tail in self._tails.values():
            if tail.path == path:
                self._due[tail.inode] = None
        self.trouble(path, "")
        self._wake()

    async def work(self) -> None:
        """Read what is due until cancelled."""
        while True:
            while self._due:
                inode = next(iter(self._due))
                del self._due[inode]
                if await self._read(self._tails[inode]):
                    self._due[inode] = None  # the others first
                await asyncio.sleep(0)
            self._woken.clear()
            await self._woken.wait()

    async def stop(self) -> None:
        """Return when every line handed over has been answered."""
        await self._intake.drain()
        for tail in self._tails.values():
            os.close(tail.descriptor)
        self._tails.clear()

    def _wake(self) -> None:
        self._woken.set()

    def _meet(self, path: str, inode: int) -> None:
        tail = self._tails.get(inode) or self._open(path)
        if tail is not None:
            tail.path, tail.named = path, True
            self._read_on(tail)

    def _open(self, path: str) -> Tail | None:
        if len(self._tails) >= _MOST_FILES:
            self._crowded = True
            self.trouble(self._root, f"more than {_MOST_FILES} files match in {self._root}; narrow pattern")
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._host.counts["unreadable"] += 1
            self.trouble(path, f"{path} cannot be read: {error.strerror}; it is tried again at every look")
            return None
        self.trouble(path, "")
        tail = Tail(path, descriptor, self._settings)
        if tail.inode in self._tails:  # it was renamed between the two calls
            os.close(descriptor)
            return self._tails[tail.inode]
        tail.begin_at(self._beginning(tail))
        self._tails[tail.inode] = tail
        return tail

    def _beginning(self, tail: Tail) -> int:
        size = os.fstat(tail.descriptor).st_size
        if self._at_end:
            return size
        known = self._memory.positions.get(tail.inode)
        if known is None or known.offset_bytes > size:
            return 0
        return known.offset_bytes if zlib.crc32(os.pread(tail.descriptor, known.head_bytes, 0)) == known.head else 0

    def _miss(self, inodes: set[int]) -> None:
        """What a whole look has not found twice in a row, and what has not grown since, is over."""
        for tail in self._tails.values():
            if tail.inode not in inodes:
                grown = tail.offset != os.fstat(tail.descriptor).st_size
                tail.over = not (tail.named or grown or tail.again)
                tail.named = False
                self._read_on(tail)
        positions = self._memory.positions
        if len(positions) > 2 * _MOST_FILES:
            for inode in positions.keys() - self._tails.keys():
                del positions[inode]

    def _read_on(self, tail: Tail) -> None:
        if tail.again and not tail.in_flight:
            tail.begin_at(tail.answered)
        self._due[tail.inode] = None
        self._wake()

    async def _read(self, tail: Tail) -> bool:
        """One piece of it. True: there may be more."""
        if tail.again:
            return False
        try:
            if tail.is_another():
                self._host.counts["truncated"] += 1
                tail.begin_at(0)
            piece = os.pread(tail.descriptor, _PIECE_BYTES, tail.offset)
        except OSError as error:
            tail.unread = True
            self.trouble(tail.path, f"{tail.path} cannot be read: {error.strerror}; it is tried again at every look")
            return False
        if tail.unread:
            tail.unread = False
            self.trouble(tail.path, "")
        if piece:
            await self._cut(tail, piece)
        elif tail.over:
            await self._offer(tail, tail.codec.finish(), tail.offset)
            self._close(tail)
        self._host.counts.update(tail.codec.counts)
        tail.codec.counts.clear()
        return bool(piece)

    async def _cut(self, tail: Tail, piece: bytes) -> None:
        """After the last terminator nothing is begun: a place to go on from after a restart."""
        turn, start = tail.turn, tail.offset
        at = max(piece.rfind(end) + len(end) if end in piece else 0 for end in self._terminators)
        tail.offset = start + len(piece)
        ended, begun = tail.codec.feed(piece[:at]), tail.codec.feed(piece[at:])
        await self._offer(tail, ended, start + at if at else None)
        if begun and tail.turn is turn:  # a terminator that two pieces share
            await self._offer(tail, begun, None)

    async def _offer(self, tail: Tail, frames: list[bytes], clean: int | None) -> None:
        """Hand them over as the function has room. Once all are answered, `clean` is where a restart goes on."""
        turn, last = tail.turn, len(frames) - 1
        if not frames and not tail.in_flight and clean is not None:
            tail.answered = clean
        for number, frame in enumerate(frames):
            while self._intake.full:
                self._woken.clear()
                await self._woken.wait()
            if tail.again or tail.turn is not turn:
                return
            tail.in_flight += 1
            answered = partial(self._answered, tail, turn, clean if number == last else None)
            self._intake.offer(self._event(tail.path, frame), answered)

    def _answered(self, tail: Tail, turn: object, clean: int | None, response: Response) -> None:
        if self._host.counts["no_id"] and not self._told_no_id:
            self._told_no_id = True
            self._host.log.warning('dedupe: a line of a growing file has no id, so each is run; use by = "body"')
        if tail.turn is not turn:
            return
        tail.in_flight -= 1
        if response.code in NOT_HANDLED:
            tail.again = True
        elif clean is not None and not tail.again:
            tail.answered = clean
            if not tail.over:
                self._memory.positions[tail.inode] = tail.position()
                self._memory.changed()

    def _close(self, tail: Tail) -> None:
        os.close(tail.descriptor)
        del self._tails[tail.inode]
        self._due.pop(tail.inode, None)
        if self._memory.positions.pop(tail.inode, None) is not None:
            self._memory.changed()

    def _event(self, path: str, frame: bytes) -> Event:
        return Event(
            frame,
            self._settings.content_type or "text/plain",
            self._ids.next(),
            datetime.now(timezone.utc),
            self._host.origin,
            readable(os.path.relpath(path, self._root)),
            {"name": readable(Path(path).name), "path": readable(path)},
            url=url_of(path),
        )
