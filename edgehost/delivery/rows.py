"""What goes into the journal and comes out: one Change is one transaction's worth of rows. Values only.

A *place* is a row's primary key and its turn: the number of its queue (source or lane) in the upper bits, a rising number in
the lower 40. So the rows of one queue lie together on disk, in order, with no index beside the table.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

_NUMBER_BITS = 40
NUMBERS = 1 << _NUMBER_BITS
"""A queue's places are `queue * NUMBERS` and up: at 20,000 events a second they last a year and nine months, each."""


def first_place(queue: int) -> int:
    """The lowest place of a queue."""
    return queue << _NUMBER_BITS


class ReceivedRow(Struct, frozen=True, array_like=True, gc=False):
    """A durable event that has been received and not answered."""

    place: int
    event: bytes
    """msgpack of edgehost.event.Event."""
    key: str | None
    """What it is known by, if its trigger has `dedupe`; begins with the source's number."""
    at: float
    """When it came, in seconds of the journal's clock."""
    attempts: int = 0


class StoredRow(Struct, frozen=True, array_like=True, gc=False):
    """A message that waits to leave."""

    place: int
    to: str
    """Where it goes within its output: messages to one place keep their order."""
    parcel: bytes
    """msgpack of edgehost.parcel.Parcel."""
    at: float
    until: float | None
    """When it expires, in seconds of the journal's clock; None: never."""
    packet_id: int = 0
    """The identifier under which it was first sent, where that must be the same the next time (QoS 2)."""
    released: bool = False
    """The receiver has it and has said so; only the end of the exchange is left."""


class AnsweredRow(Struct, frozen=True, array_like=True, gc=False):
    """What an event came to, for when it comes again."""

    key: str
    until: float
    response: bytes
    """msgpack of edgehost.event.Response."""


class DeadRow(Struct, frozen=True, array_like=True, gc=False):
    """An event that failed for good, or (`output` is not empty) a message that its receiver refused."""

    function: str
    trigger: str
    output: str
    event_id: str
    code: str
    error: str
    attempts: int
    received: float
    """Unix time, as the event says."""
    failed: float
    """Unix time: when it was given up."""
    at: float
    """The same, in seconds of the journal's clock."""
    body: bytes
    """msgpack of the Event, or of the Parcel."""


class Change(Struct, frozen=True, gc=False):
    """What belongs together: all of it is in the journal after a crash, or nothing of it."""

    received: tuple[ReceivedRow, ...] = ()
    settled: tuple[int, ...] = ()
    """Places of received events that need no further work."""
    tried: tuple[tuple[int, int], ...] = ()
    """Place and number of attempts made."""
    stored: tuple[StoredRow, ...] = ()
    claimed: tuple[tuple[int, int], ...] = ()
    """Place and packet identifier of messages about to be sent."""
    released: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    """Places of messages that have left."""
    answered: tuple[AnsweredRow, ...] = ()
    dead: tuple[DeadRow, ...] = ()


class Totals(Struct, frozen=True):
    """What the journal held when it was opened."""

    sources: dict[tuple[str, str], int]
    """(function, trigger) to the number of its queue."""
    lanes: dict[tuple[str, str], int]
    """(function, output) likewise."""
    next_numbers: dict[str, dict[int, int]]
    """By table (`events`, `outbox`) and queue: the first place never used."""
    event_bytes: dict[int, tuple[int, int]]
    """By source: how many events wait, and their bytes."""
    dead: int
    notes: list[str]
    """What was damaged and salvaged, one line each."""


Params = tuple[Any, ...]
