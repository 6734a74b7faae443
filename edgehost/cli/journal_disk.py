"""What kind of disk the journal lies on: does it keep what is written over a power cut and a restart? From what is mounted.

    read-only                              fail    nothing can be written
    in memory, or overlaid by memory       warn    a restart takes all of it
    an overlay whose upper is not seen     warn    a container's: it goes with the container
    network, FUSE, FAT                     warn    no locks, syncs or rights to rely on
    mounted so that a sync does not wait   warn    a power cut takes what was promised
    any other                              ok      and a card is called one: it wears

What is mounted says all of it; nothing is tried on the disk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from edgehost import mounts
from edgehost.cli.checks import Finding, State, text_of
from edgehost.mounts import Mount

ELSEWHERE = "name a folder on a disk of this machine (ext4, f2fs, btrfs or xfs) in edgehost.toml [agent].state"
NOT_OVERLAID = (
    "switch the overlay off (`sudo raspi-config`, Performance Options, Overlay File System), or name a folder on a partition "
    "that is not overlaid in edgehost.toml [agent].state (`overlayroot=tmpfs:recurse=0` in cmdline.txt overlays / alone)"
)
LOST = "a restart loses all of it"
IN_MEMORY = ("tmpfs", "ramfs", "rootfs")
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph")
FAT = ("vfat", "msdos", "exfat")
UNSYNCED = ("nobarrier", "barrier=0", "fsync_mode=nobarrier", "volatile", "fsync=volatile")
"""Of ext4 and btrfs, f2fs, overlay. Not data=writeback: a sync waits for the disk with it too."""
OVERLAID_ROOT = re.compile(r"(?:^|\s)(?:boot=overlay|overlayroot=tmpfs)(?:[\s:]|$)")
"""How raspi-config and overlayroot ask for it on the kernel's command line; the tmpfs itself is hidden below the root then."""
MEMORY_DEVICE = re.compile(r"z?ram\d+")
CARD = re.compile(r"mmcblk\d+")
CARDS = {"SD": "an SD card", "MMC": "eMMC"}
"""By what the kernel calls them."""


def disk(place: Path, root: Path) -> Finding:
    """Does the file system under `place`, a folder that is there, keep what is written?"""
    seen = mounts.read(root)
    mount = mounts.mount_of(seen, place)
    if mount is None:
        return _finding("warn", f"unknown: /proc/self/mountinfo says nothing of {place}", "mount /proc")
    if "ro" in mount.options:
        mend = f"`sudo mount -o remount,rw {mount.point}` (a faulty disk is made read-only too: see `dmesg`)"
        advice = f"{mend}, or name another folder in edgehost.toml [agent].state"
        return _finding("fail", f"{mount.kind} at {mount.point} is mounted read-only", advice)
    return _overlay(seen, mount, root) if mount.kind == "overlay" else _kept(mount, root)


def _overlay(seen: Sequence[Mount], overlay: Mount, root: Path) -> Finding:
    upper = mounts.upper_of(seen, overlay)
    if upper is None or upper.kind == "overlay":
        return _hidden_upper(overlay, root)
    if upper.kind in IN_MEMORY:
        found = f"overlay at {overlay.point}, which keeps changes in memory ({upper.kind} at {upper.point}): {LOST}"
        return _finding("warn", found, NOT_OVERLAID)
    return _kept(overlay if _unsynced(overlay) else upper, root)


def _hidden_upper(overlay: Mount, root: Path) -> Finding:
    if overlay.point == PurePosixPath("/") and OVERLAID_ROOT.search(text_of(root / "proc/cmdline")):
        return _finding("warn", f"overlay at /, which keeps changes in memory: {LOST}", NOT_OVERLAID)
    found = f"overlay at {overlay.point}, whose upper folder cannot be seen from here: in a container, it goes with the container"
    return _finding("warn", found, "mount a volume at the state folder, or name a folder on one in edgehost.toml [agent].state")


def _kept(mount: Mount, root: Path) -> Finding:
    device = mounts.device_name(root, mount)
    text = f"{mount.kind} on {mount.source if mount.source != '/dev/root' else f'/dev/{device}'}"
    if mount.kind in IN_MEMORY or MEMORY_DEVICE.fullmatch(device):
        return _finding("warn", f"{text if device else mount.kind} at {mount.point}, in memory: {LOST}", ELSEWHERE)
    if mount.kind in NETWORK or mount.kind.startswith("fuse"):
        return _finding("warn", f"{text}: SQLite cannot rely on locks and syncs there, and may damage its file", ELSEWHERE)
    if mount.kind in FAT:
        return _finding("warn", f"{text}: it knows no rights of users, and a power cut may damage all of it", ELSEWHERE)
    if option := _unsynced(mount):
        found = f"{text}, mounted with {option}: a power cut may take what was synced"
        return _finding("warn", found, f"take {option} out of the options of {mount.point} in /etc/fstab and reboot")
    return _finding("ok", f"{text}{_card(device, root)}")


def _unsynced(mount: Mount) -> str:
    return next((option for option in mount.options if option in UNSYNCED), "")


def _card(device: str, root: Path) -> str:
    if (card := CARD.match(device)) is None:
        return ""
    kind = CARDS.get(text_of(root / "sys/block" / card[0] / "device/type").strip(), "a card")
    return f", {kind}: `edgehost journal` shows how much is written to it"


def _finding(state: State, found: str, advice: str = "") -> Finding:
    return Finding("journal disk", state, found, advice)
