"""Files of a folder as events: whole ones (whole.py), or the lines of growing ones (tail.py).

    the folder is there     running; degraded while a file of it, met by the last look, cannot be read, handled or put away
    it is not, or goes      degraded; looked for again until it is back (reconnect.py)
    the state cannot be read or saved      degraded; after a restart files may come twice
Must not know inotify, or what a file is to the function.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import re
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from msgspec import Struct

from edgehost.errors import StateError, TriggerError
from edgehost.event import Event
from edgehost.plugin import TriggerHost
from edgehost.reconnect import Reconnect
from edgehost.state import StateFile, state_folder
from edgehost.triggers.file.folder import Folder
from edgehost.triggers.file.memory import Memory, Remembered
from edgehost.triggers.file.naming import readable
from edgehost.triggers.file.settings import FileSettings
from edgehost.triggers.file.tail import Tails
from edgehost.triggers.file.whole import Whole

_MEMORY = ""
"""Whose trouble it is that the state cannot be saved: no path, which a look could have met."""
_AWAY_S = 2.0
"""The longest wait for a folder that is not there: a look costs one system call."""


class FileTrigger:
    """See edgehost/plugin.py, Trigger."""

    Settings: ClassVar[type[Struct]] = FileSettings
    replies: ClassVar[bool] = False

    @staticmethod
    def source_id(event: Event) -> str:
        """A whole file's: its path, inode, time and size. A line of a growing one has none that a restart does not change."""
        return f"{event.path} {event.id}" if "change" in event.headers else ""

    def __init__(self, settings: FileSettings, host: TriggerHost) -> None:
        self._settings = settings
        self._host = host
        self._root = os.path.normpath(host.folder / settings.path)
        self._memory: Memory | None = None
        self._files: Whole | Tails | None = None
        self._folder: Folder | None = None
        self._troubles: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to watch. A folder that is not there is a state, not an error. TriggerError: `failed_folder` and durable."""
        if self._host.durable and self._settings.failed_folder:
            raise TriggerError(
                "failed_folder: a durable file is done once it is in the journal, before the function has failed for it; what "
                "fails for good is kept as a dead letter. Leave failed_folder or durable out"
            )
        reconnect = Reconnect(self._connect, self._away, most_s=_AWAY_S)
        self._tasks.append(asyncio.create_task(reconnect.run(), name=f"file {self._host.origin.name}"))

    async def stop(self) -> None:
        """Take no more; return when what was taken has been answered, put away and remembered."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._files is not None:
            await self._files.stop()
        if self._memory is not None:
            await self._memory.close()

    async def _connect(self, settled: Callable[[], None]) -> None:
        files = self._files or self._remember()
        files.prepare()
        settings = self._settings
        self._folder = Folder(
            self._root,
            _matcher(settings.pattern),
            files,
            self._host.counts,
            recursive=settings.recursive,
            growing=settings.mode == "tail",
            left_out=files.left_out,
        )

        def looked(met: set[str]) -> None:
            settled()
            self._forget_but(met)
            self._tell()

        await self._folder.follow(looked, settings.rescan_s)

    def _remember(self) -> Whole | Tails:
        """Load what is remembered; from then on files are taken."""
        config, host = self._host.config, self._host
        place = state_folder(config.state, os.environ, os.geteuid()) / "file" / f"{host.function_name}.{host.origin.name}.json"
        try:
            self._memory = Memory(StateFile(place, Remembered), partial(self._trouble, _MEMORY))
        except StateError as error:
            raise TriggerError(str(error)) from error
        kind = Tails if self._settings.mode == "tail" else Whole
        self._files = files = kind(self._settings, self._root, host, self._memory, self._trouble)
        self._tasks.append(asyncio.create_task(files.work(), name=f"file {host.origin.name} taking"))
        return files

    def _away(self, reason: str) -> None:
        self._host.report("degraded", readable(reason))

    def _trouble(self, path: str, text: str) -> None:
        if text:
            self._troubles[path] = readable(text)
        elif self._troubles.pop(path, None) is None:
            return
        self._tell()

    def _forget_but(self, met: set[str]) -> None:
        """What a look at everything has not met is no longer there, and its trouble with it."""
        for path in [path for path in self._troubles if path.startswith(f"{self._root}/") and path not in met]:
            del self._troubles[path]

    def _tell(self) -> None:
        if self._troubles:
            first, *more = self._troubles.values()
            self._host.report("degraded", f"{first} (and {len(more)} more)" if more else first)
        elif self._folder is not None:
            self._host.report("running", "; ".join(filter(None, (readable(self._root), self._folder.note))))


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Names as in a shell: those that begin with a dot are hidden from a pattern that does not."""
    match = re.compile(fnmatch.translate(pattern)).match
    hidden = pattern.startswith(".")
    return lambda name: (hidden or not name.startswith(".")) and match(name) is not None
