"""Ledger: what is written down of a lane's messages on their way. All of one turn of the loop is one Change.

    claim      it has a number now           before it is first sent
    release    its receiver has it           before that is let go
    left       it is gone from the disk      at some time; until then it may leave again after a crash

Must not know how anything is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from edgehost.delivery import faults
from edgehost.delivery.journal import Journal
from edgehost.delivery.rows import Change, DeadRow

Then = Callable[[], None]


class Ledger:
    """One for each lane."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._claims: list[tuple[int, int, Then]] = []
        self._releases: list[tuple[int, Then]] = []
        self._left: list[int] = []
        self._dead: list[DeadRow] = []
        self._soon = False
        self._closed = False

    def claim(self, place: int, number: int, then: Then) -> None:
        """`then` is called when it is on disk; never, if it never will be."""
        self._claims.append((place, number, then))
        self._write_soon()

    def release(self, place: int, then: Then) -> None:
        """As `claim`."""
        self._releases.append((place, then))
        self._write_soon()

    def left(self, place: int, dead: DeadRow | None = None) -> None:
        """Nobody waits for it. A message that was refused becomes a dead letter in the same moment."""
        self._left.append(place)
        if dead is not None:
            self._dead.append(dead)
        self._write_soon()

    def close(self) -> None:
        """The journal is about to close: from now on nothing waits for the next turn."""
        self._closed = True
        self.write()

    def _write_soon(self) -> None:
        if self._closed:
            self.write()
        elif not self._soon:
            self._soon = True
            self._loop.call_soon(self.write)

    def write(self) -> None:
        """Hand over now what would be handed over at the end of this turn."""
        self._soon = False
        claims, releases, left, dead = self._claims, self._releases, self._left, self._dead
        if not (claims or releases or left):
            return
        self._claims, self._releases, self._left, self._dead = [], [], [], []
        change = Change(
            claimed=tuple((place, number) for place, number, _ in claims),
            released=tuple(place for place, _ in releases),
            left=tuple(left),
            dead=tuple(dead),
        )
        claimed, released = [then for _, _, then in claims], [then for _, then in releases]
        self._journal.commit(change, partial(_written, claimed, released, len(left)))


def _written(claimed: Sequence[Then], released: Sequence[Then], left: int, _result: Any, error: BaseException | None) -> None:
    """What has gone and could not be written leaves again after the next start; for the rest the same is the safe side."""
    for _ in range(left):
        faults.at("outbox.left")
    if error is not None:
        return
    for then in claimed:
        then()
    for then in released:
        faults.at("outbox.released")
        then()
