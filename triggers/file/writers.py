"""Whether anybody still writes a file. The kernel knows, and tells it in two ways.

    a read lease is given       nobody writes it (fcntl(2), F_SETLEASE)
    it is refused               somebody does
    there is none to be asked   somebody else's file, or a file system without leases: what was heard of it decides
      it was written to         somebody has it open
      created, and is empty     somebody has it open. (A link is created too, to a whole file, and nobody closes it)
      closed, moved in          nobody has it open
      nothing                   no telling
Must not know what becomes of a file.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import signal

_REMOTE = frozenset({0x6969, 0xFF534D42, 0xFE534D42})
"""NFS and SMB (statfs(2)): they refuse a lease, too, where the server has given this machine none on the file."""
_STATFS_BYTES = 512
"""More than the structure has on any machine."""

_libc = ctypes.CDLL(None, use_errno=True)


def is_being_written(descriptor: int) -> bool | None:
    """For a file opened to read. None: no telling, for it is somebody else's or its file system has no leases."""
    try:
        # Somebody who opens it in this very moment breaks the lease by a signal: one that nobody minds, instead of SIGIO.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN and _file_system(descriptor) not in _REMOTE else None
    return False


def _file_system(descriptor: int) -> int:
    """Its magic number, the first word of struct statfs; 0 if there is none to be had."""
    status = ctypes.create_string_buffer(_STATFS_BYTES)
    return 0 if _libc.fstatfs(descriptor, status) else ctypes.c_ulong.from_buffer(status).value & 0xFFFFFFFF


class Writers:
    """What was heard of those who write (folder.py), since the folder is watched."""

    def __init__(self) -> None:
        self._begun: dict[str, bool] = {}
        """Path to whether it has been written to, and not only created."""

    def begin(self, path: str, created: bool) -> None:
        """Somebody has created it, or written to it."""
        self._begun[path] = not created

    def end(self, path: str) -> None:
        """It was closed or moved in, or is gone."""
        self._begun.pop(path, None)

    def forget(self, folder: str) -> None:
        """Ends may have gone unheard in this folder, or below it."""
        for path in [path for path in self._begun if path.startswith(f"{folder}/")]:
            del self._begun[path]

    def busy_with(self, path: str, size_bytes: int) -> bool:
        """Whether somebody is known to have it open; it has this size now."""
        written = self._begun.get(path)
        return written is not None and (written or size_bytes == 0)
