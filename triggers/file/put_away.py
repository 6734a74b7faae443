"""Where a file goes once it has been handled: stays, is moved, is deleted. Never over another file. Must not know events."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from edgehost.errors import TriggerError
from edgehost.triggers.file.memory import Outcome, Stamp
from edgehost.triggers.file.settings import FileSettings

Left = Literal["kept", "gone", "changed"]


class PutAway:
    """What `when_done`, `done_folder` and `failed_folder` ask for."""

    def __init__(self, settings: FileSettings, root: str) -> None:
        self._root = Path(root)
        self._delete = settings.when_done == "delete"
        asked: dict[Outcome, str] = {"done": settings.done_folder, "failed": settings.failed_folder}
        self.folders = {outcome: Path(os.path.normpath(self._root / folder)) for outcome, folder in asked.items() if folder}
        """An outcome that is not among them moves nothing."""

    def prepare(self) -> None:
        """Make the folders, once the watched one is there. Raises TriggerError if files could not be moved there in one step."""
        if not self._root.is_dir():
            return
        for folder in self.folders.values():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                other = folder.stat().st_dev != self._root.stat().st_dev
            except OSError as error:
                raise TriggerError(f"{folder} cannot be made: {error.strerror}; make it, or name another folder") from None
            if other:
                raise TriggerError(f"{folder} is on another file system than {self._root}; name a folder on the same one")

    def put(self, path: str, stamp: Stamp, outcome: Outcome) -> Left:
        """Put one file away, if it is still the one that was handled. Raises OSError if that cannot be done now."""
        file, folder = Path(path), self.folders.get(outcome)
        delete = self._delete and outcome == "done"
        if folder is None and not delete:
            return "kept"
        try:
            if Stamp.of(file.lstat()) != stamp:
                return "changed"
            if folder is None:
                file.unlink()
            else:
                place = folder / file.parent.relative_to(self._root)
                place.mkdir(parents=True, exist_ok=True)
                file.rename(_free(place / file.name))
        except FileNotFoundError:
            pass  # somebody else took it
        return "gone"


def _free(path: Path) -> Path:
    """A name that is not taken: `photo.jpg`, else `photo-2.jpg` and so on."""
    wanted, number = path, 1
    while path.is_symlink() or path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
    return path
