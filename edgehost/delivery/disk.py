"""The disk watch: climbs the ladder as the disk fills, and down again as it empties. A task of the agent's loop.

    no rung is held       a look every 5 s
    one is                a look every second

Each look asks for the free space before each rung anew, so a rung is taken only if what went before it did not help. Deleting is
done in a thread of the executor: one large file takes an SD card hundreds of milliseconds. Asking takes microseconds. ladder.py
decides, leftovers.py deletes; must not know what is in a bundle, a log or a message.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgehost.config import Disk
from edgehost.delivery import spare
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.journal import Journal
from edgehost.delivery.ladder import RUNGS, Room, Rung, Space, Step, decide, room
from edgehost.delivery.leftovers import Gone, Leftover, cached_bundles, delete, old_logs
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.sizes import roughly
from edgehost.errors import EdgehostError

EVERY_S = 5.0
HURRIED_S = 1.0
_CUT_PAGES = 256
"""How much of the journal's file is given back in one step: a step writes as much first, and the disk is nearly full."""
_WHY = "disk"
_DOES: dict[Rung, str] = {
    "logs": "old log files and journals set aside are deleted",
    "bundles": "cached bundles are deleted",
    "outbox": "messages of low priority (store.priority below 5) are dropped",
    "refuse": "durable events are refused",
}

log = logging.getLogger("edgehost.disk")


def room_on(folder: Path, events_bytes: int, outbox_bytes: int) -> Room:
    """What the journal may hold on the file system of `folder`, as far as that can be asked; sizes as configured."""
    try:
        return room(space_of(folder).size_bytes, events_bytes, outbox_bytes)
    except OSError:
        return Room(events_bytes, outbox_bytes)


def space_of(folder: Path) -> Space:
    """The file system that `folder` lies on, or will lie on once it is made. Raises OSError."""
    for place in (folder, *folder.parents):
        try:
            about = os.statvfs(place)
        except FileNotFoundError:
            continue
        return Space(about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize)
    raise FileNotFoundError(2, "No such file or directory", str(folder))


class DiskWatch:
    """One for the agent, over the file system of its state folder."""

    def __init__(
        self,
        folder: Path,
        disk: Disk,
        journal: Journal,
        outbox: Outbox,
        allowance: Allowance,
        measure: Callable[[Path], Space] = space_of,
    ) -> None:
        self.held: dict[Rung, Step] = {}
        self._folder = folder
        self._disk = disk
        self._journal = journal
        self._outbox = outbox
        self._allowance = allowance
        self._measure = measure
        self._space = Space(0, 0)
        self._gone: dict[Rung, Gone] = {}
        """By rung, since it was taken."""
        self._in_journal: asyncio.Task[None] | None = None
        self._outbox_bytes = outbox.limit_bytes
        """The outbox's own limit, which a refusal lowers."""
        self._blind = ""

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(HURRIED_S if self.held else EVERY_S)
        finally:
            if self._in_journal is not None:
                self._in_journal.cancel()

    async def look(self) -> None:
        """Once up or down the ladder."""
        for rung in RUNGS:
            if (space := self._measured()) is None:
                return
            step = decide(space, self._disk, self.held)[rung]
            if step.held and rung not in self.held:
                self._begin(step)
            if step.held:
                self.held[rung] = step
                await self._free(step)
            elif rung in self.held:
                self._end(step)

    @property
    def trouble(self) -> str:
        """What a person should know; "" while there is room."""
        if self._blind:
            return self._blind
        if not self.held:
            return ""
        return f"{self._state()}: {'; '.join(_DOES[rung] for rung in RUNGS if rung in self.held)}; {self._advice()}"

    def _measured(self) -> Space | None:
        try:
            self._space = self._measure(self._folder)
        except OSError as error:
            blind = f"the free space of {self._folder} is not known: {error.strerror}; nothing is done if the disk fills"
            if blind != self._blind:
                log.error("%s", blind)
            self._blind = blind
            return None
        self._blind = ""
        return self._space

    def _begin(self, step: Step) -> None:
        self._gone[step.rung] = Gone()
        log.warning(
            "%s, less than [disk] %s allows (%s): %s until %s are free; %s", self._state(), step.rung, roughly(step.mark_bytes),
            _DOES[step.rung], roughly(step.left_at_bytes), self._advice(),
        )  # fmt: skip
        if step.rung == "refuse":
            self._refuse(step)

    def _end(self, step: Step) -> None:
        del self.held[step.rung]
        gone = self._gone.pop(step.rung)
        done = f"; deleted since then: {gone.things}, {roughly(gone.bytes)}" if gone.things else ""
        log.info("%s again, so [disk] %s is over%s", self._state(), step.rung, done)
        if step.rung == "refuse":
            self._outbox.limit(self._outbox_bytes)
            self._journal.spares.discard(_WHY)
            self._allowance.refuse(_WHY, "")

    def _state(self) -> str:
        return f"{roughly(self._space.free_bytes)} of {roughly(self._space.size_bytes)} are free"

    def _advice(self) -> str:
        return f"make room on the file system of {self._folder}"

    async def _free(self, step: Step) -> None:
        if step.rung == "logs":
            await self._delete(step, old_logs)
        elif step.rung == "bundles":
            await self._delete(step, cached_bundles)
        elif step.rung == "outbox":
            await self._free_in_journal(step)

    async def _delete(self, step: Step, find: Callable[[Path], list[Leftover]]) -> None:
        folder, wanted = self._folder, step.wanted_bytes
        gone = await asyncio.get_running_loop().run_in_executor(None, lambda: delete(find(folder), wanted))
        self._count(step.rung, gone)

    def _count(self, rung: Rung, gone: Gone) -> None:
        before = self._gone.get(rung, Gone())
        self._gone[rung] = Gone(before.things + gone.things, before.bytes + gone.bytes)

    async def _free_in_journal(self, step: Step) -> None:
        """The journal may be stuck on this very disk: it is waited for, but no longer than until the next look."""
        if self._in_journal is None or self._in_journal.done():
            if self._journal.state != "open" or self._journal.trouble:
                return
            self._in_journal = asyncio.get_running_loop().create_task(self._make_room(step))
        await asyncio.wait((self._in_journal,), timeout=HURRIED_S)

    async def _make_room(self, step: Step) -> None:
        try:
            if await self._cut(step.left_at_bytes):
                return
            dropped = self._dropped()
            freed = await self._outbox.shed(max(1, step.left_at_bytes - self._space.free_bytes))
            self._count("outbox", Gone(self._dropped() - dropped, freed))
            await self._cut(step.left_at_bytes)
        except EdgehostError as error:  # the agent ends, or the journal cannot be used: the next look finds out
            log.warning("no room is made in the journal: %s", error)

    def _dropped(self) -> int:
        return sum(lane.counts["dropped"] for lane in self._outbox.lanes.values())

    async def _cut(self, free_bytes: int) -> bool:
        """Give back what is free inside the journal's file, until so much is free on the disk: True if it is."""
        while (space := self._measured()) is not None and space.free_bytes < free_bytes:
            left = await self._journal.ask(partial(spare.cut_now, most=_CUT_PAGES))
            await self._journal.ask(spare.as_usual)
            if not left:
                break
        return space is not None and space.free_bytes >= free_bytes

    def _refuse(self, step: Step) -> None:
        """The outbox keeps to what is on disk: its own messages, and the events whose answers take their place there. A little
        more is let through, for an event's answer goes over the disk also when its receiver is near.
        """
        on_disk = self._outbox.bytes + self._allowance.used_bytes + step.mark_bytes // 8
        self._outbox_bytes = self._outbox.limit_bytes
        self._outbox.limit(min(self._outbox_bytes, on_disk))
        self._journal.spares.add(_WHY)
        until = f"until {roughly(step.left_at_bytes)} are free"
        reason = f"the disk is nearly full ({self._state()}): durable events are refused {until}; {self._advice()}"
        self._allowance.refuse(_WHY, reason)
