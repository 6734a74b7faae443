"""Pages: the file of a database and its log as numbered pages, whatever state both are in. Knows files and the format of a log.

    in the log       if the frame and all before it bear the log's salts and the right sum, and a commit follows: the last one
    in the file      else
    empty            if it is in neither, or the disk cannot read it; cut off where the file is

Reads alone, and takes no lock. Must not know what a page holds, but for the number of pages, which stands on the first one.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

SIZE: Final = 4096
_MAGIC = b"SQLite format 3\0"
_LOG_MAGIC = 0x377F0682
_LOG_HEAD = struct.Struct(">8I")
_FRAME_HEAD = struct.Struct(">6I")


class Pages:
    """To be closed after SQLite has closed the same file: by POSIX a process that closes a file once gives up all its locks."""

    def __init__(self, path: Path) -> None:
        self._files: list[BinaryIO] = []
        self._places: dict[int, tuple[BinaryIO, int]] = {}
        """Of the pages that are in the log."""
        self._file = self._opened(path)
        self.count = 0
        """The highest number of a page."""
        self.in_use = 0
        """The same, as the database says: what lies behind may be out of date, for the file is cut later."""
        if self._file is not None:
            self._count(os.fstat(self._file.fileno()).st_size, self._opened(path.with_name(f"{path.name}-wal")))

    def __getitem__(self, number: int) -> bytes:
        file, place = self._places.get(number, (self._file, (number - 1) * SIZE))
        if file is not None and 0 < number <= self.count:
            with suppress(OSError):
                return os.pread(file.fileno(), SIZE, place)
        return b""

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _opened(self, path: Path) -> BinaryIO | None:
        try:
            file = path.open("rb")
        except OSError:
            return None
        self._files.append(file)
        return file

    def _count(self, length: int, log: BinaryIO | None) -> None:
        """Finds what is in the log."""
        if log is not None:
            with suppress(OSError):
                self.count = self.in_use = self._logged(log)
        if not self.count:
            self.count = self.in_use = -(-length // SIZE)
            first = self[1]
            if first.startswith(_MAGIC) and first[24:28] == first[92:96]:
                self.in_use = min(self.count, int.from_bytes(first[28:32], "big") or self.count)

    def _logged(self, log: BinaryIO) -> int:
        """Gives how many pages the database has after the last commit in the log; 0 if there is none."""
        head = log.read(_LOG_HEAD.size)
        if len(head) < _LOG_HEAD.size:
            return 0
        magic, _, size, _, _, _, *sums = _LOG_HEAD.unpack(head)
        order = ">" if magic & 1 else "<"
        first, second = _sums(head[:24], order, 0, 0)
        if magic & ~1 != _LOG_MAGIC or size != SIZE or [first, second] != sums:
            return 0
        count, place = 0, _LOG_HEAD.size
        since: dict[int, tuple[BinaryIO, int]] = {}
        while len(frame := log.read(_FRAME_HEAD.size + SIZE)) == _FRAME_HEAD.size + SIZE:
            number, committed, _, _, *sums = _FRAME_HEAD.unpack_from(frame)
            first, second = _sums(frame[:8] + frame[_FRAME_HEAD.size :], order, first, second)
            if frame[8:16] != head[16:24] or [first, second] != sums:
                break
            since[number] = log, place + _FRAME_HEAD.size
            place += len(frame)
            if committed:
                self._places |= since
                count, since = committed, {}
        return count


def _sums(data: bytes, order: str, first: int, second: int) -> tuple[int, int]:
    for one, other in struct.iter_unpack(f"{order}II", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
