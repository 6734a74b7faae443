"""Leftovers: what may be deleted when the disk fills, and nothing else. Every call blocks: not for the agent's loop.

    old_logs            files below STATE/logs, but for the newest of each folder (it may be in use);
                        journals set aside as damaged, each with what lies beside it
    cached_bundles      what lies in STATE/bundles/cache: a bundle goes whole or not at all

The oldest go first. What is empty, a link, or on another file system would free nothing and stays. Must not know how full the
disk is.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_BLOCK = 512
"""What st_blocks counts in, whatever the file system's own blocks are (stat(2))."""
_DAMAGED = re.compile(r"journal\.db\.damaged-([0-9]+)(-wal|-shm|-journal)?")
_GOING = ".going-"
"""A bundle is renamed before it is deleted: after a crash nobody takes half of it for a bundle."""


class Leftover(NamedTuple):
    """Something that goes whole: its files or folders, their size on the disk, and when it was last written."""

    written: float
    size_bytes: int
    paths: tuple[Path, ...]


class Gone(NamedTuple):
    """What has been deleted."""

    things: int = 0
    bytes: int = 0


def old_logs(state: Path) -> list[Leftover]:
    """The oldest first."""
    found: list[Leftover] = []
    for folder, files in _files_by_folder(state / "logs", _device(state)).items():
        files.sort()
        found += [Leftover(written, size, (folder / name,)) for written, name, size in files[:-1] if size]
    return sorted([*found, *_set_aside(state)])


def cached_bundles(state: Path) -> list[Leftover]:
    """The oldest first; before them what an earlier deletion has left half done."""
    cache = state / "bundles" / "cache"
    device = _device(state)
    found = []
    for path in _entries(cache) if not cache.is_symlink() else ():
        about = _stat(path)
        if about is None or about.st_dev != device or stat.S_ISLNK(about.st_mode):
            continue
        size = _tree_bytes(path, device) if stat.S_ISDIR(about.st_mode) else _bytes_of(about)
        written = 0.0 if path.name.startswith(_GOING) else about.st_mtime
        if size:
            found.append(Leftover(written, size, (path,)))
    return sorted(found)


def delete(leftovers: Iterable[Leftover], size_bytes: int) -> Gone:
    """Delete from the front, at least `size_bytes` if there are so many. What cannot be deleted is passed over."""
    things = freed = 0
    for leftover in leftovers:
        if freed >= size_bytes:
            break
        if _deleted(leftover.paths):
            things += 1
            freed += leftover.size_bytes
    return Gone(things, freed)


def _set_aside(state: Path) -> Iterator[Leftover]:
    """Journals that recovery has put away as `journal.db.damaged-N`, each with its log; one may be there without the other."""
    found: dict[str, dict[Path, os.stat_result]] = {}
    for path in _entries(state):
        named, about = _DAMAGED.fullmatch(path.name), _stat(path)
        if named is not None and about is not None and stat.S_ISREG(about.st_mode):
            found.setdefault(named[1], {})[path] = about
    for files in found.values():
        if size := sum(map(_bytes_of, files.values())):
            yield Leftover(max(about.st_mtime for about in files.values()), size, tuple(sorted(files)))


def _files_by_folder(top: Path, device: int) -> dict[Path, list[tuple[float, str, int]]]:
    """Regular files as (written, name, size)."""
    found: dict[Path, list[tuple[float, str, int]]] = {}
    if top.is_symlink():
        return found
    for folder, _, names in os.walk(top):
        for name in names:
            about = _stat(Path(folder, name))
            if about is not None and stat.S_ISREG(about.st_mode) and about.st_dev == device:
                found.setdefault(Path(folder), []).append((about.st_mtime, name, _bytes_of(about)))
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _tree_bytes(top: Path, device: int) -> int:
    return sum(size for files in _files_by_folder(top, device).values() for _, _, size in files)


def _bytes_of(about: os.stat_result) -> int:
    """What the disk gains when this name goes."""
    return about.st_blocks * _BLOCK if about.st_nlink <= 1 else 0


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _device(state: Path) -> int:
    try:
        return state.stat().st_dev
    except OSError:
        return -1  # no folder, no leftovers


def _deleted(paths: Iterable[Path]) -> bool:
    try:
        for path in paths:
            _delete(path)
    except OSError:
        return False
    return True


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        going = path if path.name.startswith(_GOING) else path.with_name(_GOING + path.name)
        path.replace(going)
        shutil.rmtree(going)
    else:
        path.unlink(missing_ok=True)
