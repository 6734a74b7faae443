"""The disk ladder: what has to go, and in which order, as the disk fills. Decided from numbers alone. Pure.

    rung       mark: less is free than          what goes while it is held
    logs       [disk] logs,    at most 10 %     old log files, journals that were set aside
    bundles    [disk] bundles, at most  8 %     the cache of bundles
    outbox     [disk] outbox,  at most  6 %     messages of low priority that wait to leave
    refuse     [disk] refuse,  at most  4 %     nothing: durable events are refused

    free space                     a rung not held     a rung that is held
    below its mark                 is taken            stays
    up to a quarter above it       is not taken        stays, and frees what is missing to there
    a quarter above it, or more    is not taken        is left

So a size that swings about a mark does not switch at every look. A mark counts at least as much as those of the rungs after it:
rungs are taken in this order and left in the reverse, whatever edgehost.toml says. Shares are those of the whole file system,
which keeps the marks in proportion on a small disk.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, NamedTuple

from edgehost.config import Disk

Rung = Literal["logs", "bundles", "outbox", "refuse"]

RUNGS: Final[tuple[Rung, ...]] = ("logs", "bundles", "outbox", "refuse")
"""In the order in which they are taken."""
_PERCENT: Final[dict[Rung, int]] = {"logs": 10, "bundles": 8, "outbox": 6, "refuse": 4}


class Space(NamedTuple):
    """How much a file system holds, and how much of it is free for this user."""

    free_bytes: int
    size_bytes: int


class Room(NamedTuple):
    """How much of the journal's file system durable events and waiting messages may take."""

    events_bytes: int
    outbox_bytes: int

    @property
    def on_disk_bytes(self) -> int:
        """What a journal that holds as much takes there: up to half as much again."""
        return (self.events_bytes + self.outbox_bytes) * 3 // 2


def room(size_bytes: int, events_bytes: int, outbox_bytes: int) -> Room:
    """As configured, but on a file system of this size no more than a quarter and a third (see `on_disk_bytes`): a journal that
    fills its disk has no room left to delete in.
    """
    return Room(min(events_bytes, size_bytes // 4), min(outbox_bytes, size_bytes // 3))


class Step(NamedTuple):
    """One rung: whether it holds now, and how many bytes are to go while it does."""

    rung: Rung
    held: bool
    wanted_bytes: int
    """What is missing to where the rung is left; 0 if it is not held."""
    mark_bytes: int
    left_at_bytes: int
    """With so much free the rung is left."""


def decide(space: Space, disk: Disk, held: Collection[Rung]) -> dict[Rung, Step]:
    """Every rung, from those `held` so far."""
    return {rung: _step(rung, mark, space.free_bytes, rung in held) for rung, mark in marks(disk, space.size_bytes).items()}


def marks(disk: Disk, size_bytes: int) -> dict[Rung, int]:
    """The mark of each rung on a file system of this size, in bytes."""
    told: dict[Rung, int] = {
        "logs": disk.logs_bytes,
        "bundles": disk.bundles_bytes,
        "outbox": disk.outbox_bytes,
        "refuse": disk.refuse_bytes,
    }
    found: dict[Rung, int] = {}
    least = 0
    for rung in reversed(RUNGS):
        least = max(least, min(told[rung], size_bytes * _PERCENT[rung] // 100))
        found[rung] = least
    return {rung: found[rung] for rung in RUNGS}


def _step(rung: Rung, mark_bytes: int, free_bytes: int, held: bool) -> Step:
    left_at = mark_bytes + mark_bytes // 4
    holds = free_bytes < (left_at if held else mark_bytes)
    return Step(rung, holds, left_at - free_bytes if holds else 0, mark_bytes, left_at)
