"""Numbers: what parcels are called that their receivers take in two steps (edgehost/parcel.py). No two have the same at once.

One set for all outputs: a number that a row on disk has is known before any is given, so an exchange that an earlier run left
open is never taken for another one, whenever its output comes up. A number given back is the last to be given again: its receiver
may remember it. Must not know what a number is to its receiver.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from edgehost.delivery.journal import Journal
from edgehost.parcel import NUMBERS

if TYPE_CHECKING:
    import sqlite3


class Numbers:
    """One for the agent."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.left_open = 0
        """How many an earlier run had given to parcels that have not gone."""
        self._loaded = False
        self._used: set[int] = set()
        self._last = random.choice(NUMBERS)

    async def load(self) -> None:
        """Learn which are in use on disk; before anything is taken. Raises StateError if the journal cannot be read."""
        if self._loaded:
            return
        found = await self._journal.ask(_numbers)
        if not self._loaded:  # else some have been given back since this was asked
            self._used |= found
            self.left_open = len(found)
            self._loaded = True

    def take(self) -> int:
        """One that nobody has; 0 if there is none."""
        if len(self._used) >= len(NUMBERS):
            return 0
        number = self._last
        while True:
            number = number + 1 if number + 1 in NUMBERS else NUMBERS.start
            if number not in self._used:
                self._last = number
                self._used.add(number)
                return number

    def free(self, number: int) -> None:
        """Its parcel has gone."""
        self._used.discard(number)

    def __contains__(self, number: object) -> bool:
        """Whether it is in use, or may be: before `load` nobody knows."""
        return not self._loaded or number in self._used

    def __len__(self) -> int:
        """How many are in use."""
        return len(self._used)


def _numbers(connection: sqlite3.Connection) -> set[int]:
    return {number for (number,) in connection.execute("SELECT packet_id FROM outbox WHERE packet_id != 0")}
