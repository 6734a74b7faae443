"""Item: one message of a lane, and how it is found on disk again. Rows and values; must not know when anything leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edgehost.delivery.ledger import Ledger
from edgehost.parcel import Parcel
from edgehost.plugin import Forwarding

if TYPE_CHECKING:
    import sqlite3

PAGE = 128
PAGE_BYTES = 2 * 1024 * 1024

Data = bytes
"""msgpack of a parcel."""
encode: Callable[[Parcel], Data] = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Parcel).decode


class Item:
    """One message on disk, on its way there, or sent without ever having been there. It is its own slip (edgehost/parcel.py)."""

    __slots__ = (
        *("at", "begun", "ledger", "number", "output", "parcel", "place", "ready", "released", "size_bytes", "until", "wait"),
    )

    def __init__(self, parcel: Parcel, place: int = 0, at: float = 0.0, until: float | None = None, size_bytes: int = 0) -> None:
        self.parcel, self.place, self.at, self.until, self.size_bytes = parcel, place, at, until, size_bytes
        self.number = 0
        self.begun = False
        self.released = False
        self.ready = True
        """Nothing has to be written down before it may be sent."""
        self.ledger: Ledger | None = None
        """Where its way is written down; None while it has no row."""
        self.output: Forwarding | None = None
        self.wait: asyncio.Future[None] | None = None
        """Which output it was given to last, and what tells how it goes."""

    def release(self, then: Callable[[], None]) -> None:
        """See edgehost.parcel.Slip."""
        self.released = True
        if self.ledger is None:
            then()
        else:
            self.ledger.release(self.place, then)


class Kept(NamedTuple):
    """What is known of a row without reading its parcel."""

    place: int
    to: str
    size_bytes: int
    number: int


class Page(NamedTuple):
    """The next rows of a lane, those that cannot be read, and whether there are more."""

    items: list[Item]
    unreadable: list[Kept]
    more: bool


def places(connection: sqlite3.Connection, first: int, end: int) -> list[tuple[str, int, int]]:
    """Where the rows of a lane go, how many to each place, and their bytes."""
    select = 'SELECT "to", count(*), sum(length(parcel)) FROM outbox WHERE place >= ? AND place < ? GROUP BY "to"'
    return connection.execute(select, (first, end)).fetchall()


def page(connection: sqlite3.Connection, after: int, end: int) -> Page:
    """The rows behind `after`."""
    found = Page([], [], False)
    size_bytes = 0
    select = (
        'SELECT place, "to", parcel, at, until, packet_id, released FROM outbox WHERE place > ? AND place < ? ORDER BY place'
    )
    for place, to, data, at, until, number, released in connection.execute(select, (after, end)):
        try:
            item = Item(_decode(data), place, at, until, len(data))
        except msgspec.MsgspecError:
            found.unreadable.append(Kept(place, to, len(data), number))
            continue
        item.number, item.begun, item.released = number, number != 0, bool(released)
        found.items.append(item)
        size_bytes += len(data)
        if len(found.items) >= PAGE or size_bytes >= PAGE_BYTES:
            return found._replace(more=True)
    return found


def evict(connection: sqlite3.Connection, first: int, end: int, keep: Collection[int], size_bytes: int) -> list[Kept]:
    """Delete the oldest rows, so many bytes of them, but not `keep` and not what its receiver has already."""
    gone: list[Kept] = []
    freed = 0
    select = (
        'SELECT place, "to", length(parcel), packet_id FROM outbox '
        "WHERE place >= ? AND place < ? AND released = 0 ORDER BY place"
    )
    for row in connection.execute(select, (first, end)):
        if row[0] in keep:
            continue
        gone.append(Kept(*row))
        freed += gone[-1].size_bytes
        if freed >= size_bytes:
            break
    connection.executemany("DELETE FROM outbox WHERE place = ?", [(one.place,) for one in gone])
    return gone
