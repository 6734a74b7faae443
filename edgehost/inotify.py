"""inotify(7) through libc, its descriptor for the agent's loop: tells what happens to names in watched folders.

Must not know what anybody does about it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MODIFY = 0x2
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
UNMOUNT = 0x2000
QUEUE_OVERFLOW = 0x4000
"""Notices were lost: only a look at the folders themselves tells what has changed."""
IGNORED = 0x8000
"""The watch is gone (its folder was removed, or its file system unmounted)."""
IS_DIR = 0x40000000
_ONLY_DIR = 0x1000000
_HEAD = struct.Struct("iIII")
_READ_BYTES = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Notice:
    """One thing that happened in the folder of `watch`. `name` is decoded as os.fsdecode does; empty for the folder itself."""

    watch: int
    what: int
    name: str


class Inotify:
    """One inotify descriptor. Raises OSError where the system has none left (fs.inotify.max_user_instances)."""

    def __init__(self) -> None:
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def fileno(self) -> int:
        return int(self._descriptor)

    def watch(self, folder: str, what: int) -> int:
        """Watch a folder; its number in notices, the same as before for a folder watched already. Raises OSError: no such
        folder, or ENOSPC beyond fs.inotify.max_user_watches."""
        number = _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), ctypes.c_uint32(what | _ONLY_DIR))
        if number < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
        return int(number)

    def unwatch(self, number: int) -> None:
        _libc.inotify_rm_watch(self._descriptor, number)  # EINVAL: the kernel was quicker

    def read(self) -> list[Notice]:
        """What has happened, up to 64 KiB of it; empty when nothing has."""
        try:
            return list(notices(os.read(self._descriptor, _READ_BYTES)))
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self._descriptor)


def notices(data: bytes) -> Iterator[Notice]:
    """The notices in what was read: struct inotify_event, one after another."""
    at = 0
    while at < len(data):
        watch, what, _cookie, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size + length
        yield Notice(watch, what, os.fsdecode(data[at - length : at].rstrip(b"\0")))
