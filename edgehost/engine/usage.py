"""What a worker and all it started use now, read from /proc and its temporary folder. Nothing here changes anything.

Processes that end while they are looked at count for nothing. Knows files of proc(5); must not know limits or who asks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgehost.engine import tree

_PAGE = os.sysconf("SC_PAGE_SIZE")
_BLOCK = 512
"""st_blocks counts these (stat(2))."""
_ENTRY = 4096
"""What a file costs at least, so that a million empty ones count too."""


def family(pid: int, most: int | None = None) -> list[int]:
    """`pid` and its descendants; the search ends once there are more than `most`."""
    found = [pid]
    for parent in found:
        found += _children(parent)
        if most is not None and len(found) > most:
            break
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, _text(task / "children").split())
    except OSError:
        pass
    return children


def memory_bytes(pids: list[int], enough: int) -> int:
    """The memory of these processes, what they share counted once (PSS).

    That is slow to ask, so it is asked only if they are more than `enough` is resident (RSS, shared pages counted in each).
    Where it may not be asked (a process of another user's, or one that hides), its resident memory less that of files counts;
    what it has in common with the one it was forked from counts in both then.
    """
    sizes = [_statm(pid) for pid in pids]
    resident = sum(size for size, _ in sizes)
    if resident <= enough:
        return resident
    return sum(_proportional(pid, private) for pid, (_, private) in zip(pids, sizes, strict=True))


def _statm(pid: int) -> tuple[int, int]:
    """Resident, and resident less shared, in bytes."""
    fields = _text(f"/proc/{pid}/statm").split()
    if len(fields) < 3:
        return 0, 0
    resident, shared = int(fields[1]), int(fields[2])
    return resident * _PAGE, (resident - shared) * _PAGE


def _proportional(pid: int, otherwise: int) -> int:
    for line in _text(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return otherwise


def temp_bytes(folder: Path, pids: list[int]) -> Iterator[int]:
    """The bytes on disk of a folder's files, and of those deleted but still open in `pids`: the sum so far, file by file."""
    total = 0
    for size in _sizes(folder):
        total += size
        yield total
    deleted = {status.st_ino: status.st_blocks * _BLOCK for pid in pids for status in _deleted(pid, folder)}
    yield total + sum(deleted.values())


def _sizes(folder: Path) -> Iterator[int]:
    """One for each step, also for those back up that add nothing: whoever counts may want to pause after any."""
    for step in tree.walk(str(folder)):
        yield _size(step) if step.what != "LEFT" else 0


def _size(step: tree.Step) -> int:
    try:
        return max(_ENTRY, os.stat(step.name, dir_fd=step.at, follow_symlinks=False).st_blocks * _BLOCK)
    except OSError:  # removed meanwhile
        return 0


def _deleted(pid: int, folder: Path) -> Iterator[os.stat_result]:
    """The files without a name that the process holds open, on the disk where `folder` is."""
    try:
        device = folder.stat().st_dev
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                status = descriptor.stat()
                if status.st_nlink == 0 and status.st_dev == device:
                    yield status
    except OSError:
        return


def tasks_of_user(uid: int) -> int:
    """How many threads run as this user: what RLIMIT_NPROC counts."""
    count = 0
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # ended meanwhile
            if process.name.isdigit() and process.stat().st_uid == uid:
                count += (process / "task").stat().st_nlink - 2
    return count


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
