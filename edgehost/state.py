"""State: where what must survive a restart lies, and small files there that are the old or the new, never half of either.

    written    beside the file, synced, renamed over it, the folder synced: a power cut leaves one of the two
    damaged    moved aside as NAME.damaged with a warning, and taken as not there
    unwritable StateError; what was there stays
    counted    what was handed to the disk, for whoever keeps account of its wear: `saved_bytes`

Must not know what is remembered. Calls block (a sync to an SD card takes tens of milliseconds): not for the agent's loop.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from edgehost.errors import StateError

T = TypeVar("T", bound=msgspec.Struct)

_log = logging.getLogger("edgehost.state")

_saved: Counter[Path] = Counter()
"""Bytes by the folder of the file. Saves come from several threads."""
_saved_lock = threading.Lock()


def saved_bytes(below: Path) -> int:
    """What this process has saved in files below a folder, whole or in part. Those elsewhere may lie in memory alone (/run)."""
    with _saved_lock:
        return sum(count for folder, count in _saved.items() if folder.is_relative_to(below))


def state_folder(configured: Path | None, environ: Mapping[str, str], uid: int) -> Path:
    """As configured, else systemd's state directory, else root's /var/lib/edgehost, else the user's (XDG base directories)."""
    if configured is not None:
        return configured
    if environ.get("STATE_DIRECTORY"):
        # systemd.exec(5): several state directories are separated by colons; ours is the first.
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    if uid == 0:
        return Path("/var/lib/edgehost")
    home = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or "/") / ".local/state"
    return Path(home) / "edgehost"


class StateFile(Generic[T]):
    """One value in one JSON file."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path = path
        self._kind = kind

    def load(self) -> T | None:
        """What was saved last; None if nothing was, or if it is damaged. Raises StateError if it is there and cannot be read."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=self._kind)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning("%s is damaged and moved aside, %s starts anew: %s", self.path, self.path.stem, error)
            self._move_aside()
            return None
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror}; {_advice(self.path)}") from error

    def save(self, value: T) -> None:
        """Put `value` in the file's place. Raises StateError if it cannot be written; the old one is whole then."""
        fresh = self.path.with_name(f"{self.path.name}.new")
        data = msgspec.json.encode(value)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with fresh.open("wb") as file:
                file.write(data)
                with _saved_lock:
                    _saved[self.path.parent] += len(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise StateError(f"{self.path} cannot be written: {error.strerror}; {_advice(self.path)}") from error

    def _move_aside(self) -> None:
        try:
            self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))
        except OSError as error:
            raise StateError(f"{self.path} cannot be moved aside: {error.strerror}; {_advice(self.path)}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _advice(path: Path) -> str:
    return f"make room in {path.parent} and let this user write there, or name another folder in edgehost.toml [agent].state"
