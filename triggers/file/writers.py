"""Whether anybody still writes a file: the kernel knows, and tells who asks for a read lease (fcntl(2), F_SETLEASE)."""

from __future__ import annotations

import errno
import fcntl
import signal


def is_being_written(descriptor: int) -> bool | None:
    """For a file opened to read. None: no telling, for it is somebody else's or its file system has no leases (NFS)."""
    try:
        # Somebody who opens it in this very moment breaks the lease by a signal: one that nobody minds, instead of SIGIO.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    return False
