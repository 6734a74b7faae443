"""Pending: a durable event that is on disk and waits in memory too, and how such events are read from disk, a page at a time.

A row that cannot be read would stand in the way of all behind it: it is deleted, and named. Knows rows; must not know whose turn
it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edgehost.event import Event

if TYPE_CHECKING:
    import sqlite3

PAGE = 256
_PAGE_BYTES = 1024 * 1024

_decode = msgspec.msgpack.Decoder(Event).decode


class Pending:
    """One event that is on disk and waits in memory too."""

    __slots__ = ("attempts", "event", "key", "place", "size_bytes")

    def __init__(self, place: int, event: Event, key: str | None, attempts: int, size_bytes: int) -> None:
        self.place, self.event, self.key, self.attempts, self.size_bytes = place, event, key, attempts, size_bytes


class Page(NamedTuple):
    """Events from disk, in order. `more`: there are others behind them."""

    events: list[Pending]
    more: bool
    unreadable: list[int]
    """Places of damaged rows, which are deleted."""


def page(connection: sqlite3.Connection, after: int, end: int) -> Page:
    """The next events of a queue: those at places above `after` and below `end`. In the journal's thread."""
    found = Page([], False, [])
    size_bytes = 0
    select = "SELECT place, event, key, attempts FROM events WHERE place > ? AND place < ? ORDER BY place"
    for place, data, key, attempts in connection.execute(select, (after, end)):
        try:
            found.events.append(Pending(place, _decode(data), key, attempts, len(data)))
        except (msgspec.MsgspecError, ValueError, TypeError):
            found.unreadable.append(place)
            continue
        size_bytes += len(data)
        if len(found.events) >= PAGE or size_bytes >= _PAGE_BYTES:
            found = found._replace(more=True)
            break
    connection.executemany("DELETE FROM events WHERE place = ?", [(place,) for place in found.unreadable])
    return found
