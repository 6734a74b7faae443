"""Saving: keeps the journal within a day's bytes (`[journal] written_per_day`). A task of the agent's loop; wear.py decides.

Counts what others have written beside the journal on the way. Must not know who they are, or what a dead letter is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from edgehost.delivery.journal import Journal
from edgehost.delivery.sizes import roughly
from edgehost.delivery.wear import Thrift, day_of, thrift

EVERY_S = 5.0
_WHY = "wear"

log = logging.getLogger("edgehost.journal")


class Saving:
    """One for the agent. `others` gives by component what each has written since the agent started."""

    def __init__(self, journal: Journal, cap_bytes: int | None, others: Mapping[str, Callable[[], int]]) -> None:
        self._journal = journal
        self._cap = cap_bytes
        self._others = others
        self._counted = dict.fromkeys(others, 0)
        self._now = Thrift("free", 0.0)
        self._today_bytes = 0
        self._day = day_of(time.time())
        self._said: set[str] = set()
        """The stages that were logged on that day."""
        self._spared = journal.spared

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Count, and have the journal save as much as it must."""
        for component, written in self._others.items():
            total = written()
            if total > self._counted[component]:
                self._journal.count_written(component, total - self._counted[component])
                self._counted[component] = total
        self._today_bytes = sum(worn.today_bytes for worn in self._journal.wear())
        self._now = thrift(self._today_bytes, self._cap)
        self._journal.rest(self._now.rest_s)
        if self._now.stage == "spent":
            self._journal.spares.add(_WHY)
        else:
            self._journal.spares.discard(_WHY)
        self._tell()

    @property
    def trouble(self) -> str:
        """What a person should know; "" if nothing is saved."""
        if self._cap is None or self._now.stage == "free":
            return ""
        used = f"{roughly(self._today_bytes)} of {roughly(self._cap)} ([journal] written_per_day) are written today"
        if self._now.stage == "resting":
            return f"{used}: the journal writes less often, durable events take up to {self._now.rest_s:.1f} s longer"
        return f"{used}: the journal writes once a second, and dead letters of events that are not on disk are not kept"

    def _tell(self) -> None:
        """Each stage is said once a day."""
        today, stage = day_of(time.time()), self._now.stage
        if today != self._day:
            if self._said:
                skipped = self._journal.spared - self._spared
                log.info("a new day: the journal has its bytes again; %d dead letters were not kept", skipped)
            self._day, self._said, self._spared = today, set(), self._journal.spared
        if stage != "free" and stage not in self._said:
            self._said.add(stage)
            log.warning("%s; raise written_per_day if the disk bears it", self.trouble)
