"""Reserve: a file of SIZE_BYTES beside the journal that nobody reads, kept for the day on which the disk is full.

    kept      while there is room for it
    spent     given up for room in which the journal can write, once, that something of it may go

To delete takes room as well: SQLite writes what it changes into its log first. A journal that has filled the disk itself, with
messages that wait, could never get rid of one. Called in the journal's thread.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

SIZE_BYTES = 2 * 1024 * 1024
_SPARE_TIMES = 8
"""It is kept while the disk has so many times its size free."""
_LOOK_S = 60.0


class Reserve:
    """The one of the journal at `journal`."""

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name(f"{journal.name}.reserve")
        self._looked_at = -_LOOK_S

    def keep(self) -> None:
        """See that it is there, now and then, if there is room for it."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        with suppress(OSError):  # without it the journal is as well off as without room for it
            if self.path.exists():
                return
            about = os.statvfs(self.path.parent)
            if about.f_bavail * about.f_frsize > SIZE_BYTES * _SPARE_TIMES:
                self._make()

    def spend(self) -> bool:
        """Whether there is now more room than there was."""
        try:
            self.path.unlink()
        except OSError:
            return False
        return True

    def _make(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE_BYTES)
        except OSError:
            self.path.unlink()
            raise
        finally:
            os.close(descriptor)
