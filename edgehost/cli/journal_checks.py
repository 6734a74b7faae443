"""What `edgehost check` looks at of the journal itself: may it be written, what does it promise, is there room. Changes nothing.

The file is not opened: an agent that uses it holds SQLite's lock on it, and that stands in /proc/locks. What is free is measured
as by the agent and judged by the disk ladder's own rules. journal_disk.py looks at the disk below.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from edgehost import mounts
from edgehost.cli.checks import Finding, State, Usable, text_of
from edgehost.config import Disk, Journal
from edgehost.delivery import ladder
from edgehost.delivery.disk import space_of
from edgehost.delivery.ladder import Room, Rung, Space
from edgehost.delivery.overview import size_on_disk
from edgehost.delivery.pages import SIZE
from edgehost.delivery.sizes import roughly
from edgehost.delivery.spare import CHECKPOINT_PAGES

LOCK_BYTES = range(0x40000000, 0x40000000 + 512)
"""Where SQLite puts its locks, in every database."""
LOG_BYTES = CHECKPOINT_PAGES * SIZE
"""With relaxed durability the journal is synced when its log is as long as this, and copied into the file."""
EXPIRE_CS, FLUSH_CS = 3000, 500
"""When Linux writes what nobody has synced, if not told: vm.dirty_expire_centisecs and vm.dirty_writeback_centisecs."""
COMMITS_S: Final[dict[str, int]] = {"btrfs": 30, "f2fs": 60}
"""How long it takes to write where that is, if not told; ext4 and others: COMMIT_S."""
COMMIT_S = 5
GOES: Final[dict[Rung, str]] = {
    "logs": "old log files",
    "bundles": "cached bundles",
    "outbox": "waiting messages of low priority",
}
"""What the disk ladder deletes, at each rung but the last."""
ANOTHER = "name another folder in edgehost.toml [agent].state"


class Place(Struct, frozen=True):
    """Where the journal lies, or will lie: links are followed, as by the agent."""

    path: Path
    there: Path
    """Its folder; as long as that is not made, the nearest one above that is there."""
    dead_link: str = ""
    """A link on the way that leads nowhere, and where to."""


def place_of(folder: Path) -> Place:
    """Of the journal in this state folder."""
    link = folder / "journal.db"
    path = Path(os.path.realpath(link))
    there = _nearest(path.parent)
    dead = next((each for each in (link, folder) if there != path.parent and _is_link(each)), None)
    return Place(path, there, f"{dead} is a link to {path if dead is link else path.parent}" if dead else "")


def may_use(path: Path) -> bool:
    """By access(2), for this process: read and write it, and go into it if it is a folder."""
    return os.access(path, os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0))


def journal(place: Place, settings: Journal, root: Path, usable: Usable) -> Finding:
    """May this user write the journal, or make it? How large is it, who has it open, and what may a power cut take of it?"""
    if (barred := _barred(place, usable)) is not None:
        return barred
    path = place.path
    risk = f"; durability is relaxed: {_at_risk(place, root)}" if settings.durability == "relaxed" else ""
    if not path.exists():
        return _finding("ok", f"{path} is not there yet: the agent makes it for the first function that needs it{risk}")
    if os.geteuid() == 0 and _owner(path) == "root" != _owner(path.parent):
        return _of_root(path)
    user = _user_of(path, root)
    in_use = f", in use by process {user}" if user else ""
    return _finding("ok", f"{path}, {roughly(size_on_disk(path))}{in_use}{risk}")


def room(folder: Path, limits: Journal, marks: Disk, measure: Callable[[Path], Space] = space_of) -> Finding:
    """Is there room in the state folder for what [journal] allows, before [disk] has things deleted and events refused?"""
    try:
        space = measure(folder)
    except OSError as error:
        return _room("warn", f"unknown: how much is free for {folder} cannot be asked: {error.strerror}", ANOTHER)
    allowed = ladder.room(space.size_bytes, limits.events_bytes, limits.outbox_bytes)
    used = size_on_disk(folder / "journal.db")
    return _shedding(space, marks, folder) or _too_large(space, marks, allowed, used) or _roomy(space, limits, allowed)


def _barred(place: Place, usable: Usable) -> Finding | None:
    """Why this user cannot write the journal; None if nothing bars it."""
    if place.dead_link:
        return _finding("fail", f"{place.dead_link}, where nothing is", "mount that disk, or remove the link")
    if not place.there.is_dir():
        return _finding("fail", f"{place.there} is no folder", ANOTHER)
    if os.statvfs(place.there).f_flag & os.ST_RDONLY:
        return _finding("fail", f"{place.path} cannot be written: its disk is read-only", "see journal disk")
    if not usable(place.there):
        return _closed_folder(place)
    if place.path.exists() and not usable(place.path):
        me = _name(os.geteuid())
        found = f"{place.path} belongs to user {_owner(place.path)}, and user {me} may not write it"
        return _finding("fail", found, f"`sudo chown {me}: {place.path}*`, or {ANOTHER}")
    return None


def _closed_folder(place: Place) -> Finding:
    """One that belongs to another user is most often a service's, whose agent may well use it."""
    folder, owner, me = place.path.parent, _owner(place.there), _name(os.geteuid())
    advice = f"let user {me} write there, or {ANOTHER}"
    if place.there != folder:
        return _finding("fail", f"{folder} cannot be made: user {me} may not write in {place.there}", advice)
    found = f"{folder} belongs to user {owner}, and user {me} may not use it"
    if owner in ("root", me):
        return _finding("fail", found, advice)
    return _finding("warn", found, f"if the agent runs as user {owner}, run this check as that user too; if not, {ANOTHER}")


def _of_root(path: Path) -> Finding:
    """An agent that was tried as root where a service lives leaves what the service cannot open."""
    owner = _owner(path.parent)
    found = f"{path} belongs to user root and its folder to user {owner}: an agent of user {owner} cannot open it"
    return _finding("warn", found, f"end the agent that uses it, then `sudo chown {owner}: {path}*`")


def _at_risk(place: Place, root: Path) -> str:
    """What was never synced lies in memory until Linux writes it, and is found again when its place is written too."""
    flush = _centiseconds(root, "writeback", FLUSH_CS)
    mount = mounts.mount_of(mounts.read(root), place.there)
    told = mount.value("commit") if mount else ""
    commit_s = int(told) if told.isdecimal() else COMMITS_S.get(mount.kind if mount else "", COMMIT_S)
    seconds = (_centiseconds(root, "expire", EXPIRE_CS) + flush) // 100 + commit_s
    newest = roughly(LOG_BYTES)
    most = f"the last {seconds} s or {newest}, whichever is less" if flush else f"the last {newest}"
    return f"a power cut may take {most}; a crash of the agent takes nothing"


def _centiseconds(root: Path, name: str, usual: int) -> int:
    told = text_of(root / f"proc/sys/vm/dirty_{name}_centisecs").strip()
    return int(told) if told.isdecimal() else usual


def _user_of(path: Path, root: Path) -> int:
    """The process that has the journal open for writing; 0 if none is seen (one in another container is not).

    By inode and locked bytes: on btrfs and overlay the device in /proc/locks is not the one of stat(2).
    """
    inode = str(path.stat().st_ino)
    for line in text_of(root / "proc/locks").splitlines():
        fields = line.split()
        if len(fields) == 8 and fields[3] == "WRITE" and fields[5].rpartition(":")[2] == inode and int(fields[6]) in LOCK_BYTES:
            return int(fields[4])
    return 0


def _shedding(space: Space, marks: Disk, folder: Path) -> Finding | None:
    held = [step for step in ladder.decide(space, marks, ()).values() if step.held]
    if not held:
        return None
    last = held[-1]
    found = f"{_free(space)}, less than [disk] {last.rung} allows ({roughly(last.mark_bytes)})"
    advice = f"make room on the file system of {folder}"
    if last.rung == "refuse":
        again = f"{advice}: with {roughly(last.left_at_bytes)} free they are taken again"
        return _room("fail", f"{found}: durable events are refused", again)
    goes = ", ".join(GOES[step.rung] for step in held)
    enough = f"{advice}: with {roughly(held[0].left_at_bytes)} free nothing is deleted"
    return _room("warn", f"{found}: the agent deletes {goes}", enough)


def _too_large(space: Space, marks: Disk, allowed: Room, used: int) -> Finding | None:
    full = allowed.on_disk_bytes
    refuse = ladder.marks(marks, space.size_bytes)["refuse"]
    missing = full + refuse - space.free_bytes - used
    if missing <= 0:
        return None
    found = f"{_free(space)}: a journal as full as [journal] allows takes {roughly(full)}; durable events are refused before that"
    return _room("warn", found, f"make {roughly(missing)} of room, or lower [journal] events and outbox")


def _roomy(space: Space, limits: Journal, allowed: Room) -> Finding:
    less = "" if allowed == (limits.events_bytes, limits.outbox_bytes) else " (a quarter and a third of the disk at the most)"
    taken = f"{roughly(allowed.events_bytes)} of events and {roughly(allowed.outbox_bytes)} of messages may wait{less}"
    return _room("ok", f"{_free(space)}; {taken}")


def _free(space: Space) -> str:
    return f"{roughly(space.free_bytes)} of {roughly(space.size_bytes)} are free"


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(each for each in (folder, *folder.parents) if _is_there(each))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no right to look
        return False


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:
        return False


def _owner(path: Path) -> str:
    return _name(path.stat().st_uid)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _finding(state: State, found: str, advice: str = "") -> Finding:
    return Finding("journal", state, found, advice)


def _room(state: State, found: str, advice: str = "") -> Finding:
    return Finding("journal room", state, found, advice)
