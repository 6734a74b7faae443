"""Overview: what waits in the journal, put together for people: from its tables, and from the parts of the agent that use them.

Must not know how it is shown.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from edgehost.control.stock import JournalStatus, OutputStock, WaitingEvents, WrittenBytes
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.dead_letters import DeadLetters
from edgehost.delivery.journal import Journal
from edgehost.delivery.lane import Lane
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.rows import first_place

if TYPE_CHECKING:
    import sqlite3

_ANSWER_S = 5.0
"""A disk that does not answer in this time is told about without its tables."""


class Stock(Struct, frozen=True):
    """What the tables hold."""

    events: list[WaitingEvents] = []
    outbox: list[OutputStock] = []
    dead_letters: int = 0


async def overview(journal: Journal, outbox: Outbox, allowance: Allowance, letters: DeadLetters) -> JournalStatus:
    """How it all is now. Never raises: what cannot be known is left out."""
    stock = await _stock(journal)
    return JournalStatus(
        state=journal.state,
        path=str(journal.path),
        size_bytes=size_on_disk(journal.path),
        clock_s=journal.now() if journal.state == "open" else 0.0,
        trouble=journal.trouble,
        refusal=allowance.reason(),
        notes=list(journal.notes),
        events=stock.events if stock is not None else [],
        events_limit_bytes=allowance.limit_bytes,
        outbox=_outputs(outbox.lanes, stock.outbox if stock is not None else []),
        outbox_limit_bytes=outbox.limit_bytes,
        dead_letters=stock.dead_letters if stock is not None else letters.count,
        dead_letters_limit=letters.limit,
        dead_letters_dropped=letters.dropped,
        written=[WrittenBytes(worn.component, worn.today_bytes, worn.week_bytes) for worn in journal.wear()],
        partly=stock is None,
    )


async def _stock(journal: Journal) -> Stock | None:
    if journal.state != "open":
        return Stock() if journal.state == "unused" else None
    if journal.trouble:
        return None  # its thread waits for room on the disk, and so would we
    now = journal.now()
    try:
        return await asyncio.wait_for(journal.ask(lambda connection: read(connection, now)), _ANSWER_S)
    except Exception:  # whatever it is: the journal says so itself, and the rest is worth telling
        return None


def read(connection: sqlite3.Connection, now: float) -> Stock:
    """From the tables; `now` is the time of the journal's clock."""
    events: list[WaitingEvents] = []
    outbox: list[OutputStock] = []
    for number, kind, function, name in connection.execute("SELECT id, kind, function, name FROM queues").fetchall():
        table, column = ("events", "event") if kind == "event" else ("outbox", "parcel")
        of_queue, places = f"FROM {table} WHERE place >= ? AND place < ?", (first_place(number), first_place(number + 1))
        count, size_bytes = connection.execute(f"SELECT count(*), ifnull(sum(length({column})), 0) {of_queue}", places).fetchone()
        first = connection.execute(f"SELECT at {of_queue} ORDER BY place LIMIT 1", places).fetchone()
        oldest_s = max(0.0, now - first[0]) if first is not None else 0.0
        if kind == "event":
            events.append(WaitingEvents(function, name, count, size_bytes, oldest_s))
        else:
            outbox.append(OutputStock(function, name, "gone", count, size_bytes, oldest_s))
    (dead,) = connection.execute("SELECT count(*) FROM dead").fetchone()
    names = {(each.function, each.trigger): each for each in events if each.count}
    return Stock([names[name] for name in sorted(names)], outbox, dead)


def size_on_disk(path: Path) -> int:
    """Of the database and its log, in bytes."""
    size_bytes = 0
    for suffix in ("", "-wal"):
        with suppress(OSError):
            size_bytes += path.with_name(path.name + suffix).stat().st_size
    return size_bytes


def _outputs(lanes: dict[tuple[str, str], Lane], stored: list[OutputStock]) -> list[OutputStock]:
    """Every output there is, and those that are no more but have left something; in the order of their names."""
    on_disk = {(each.function, each.output): each for each in stored}
    outputs = {name: each for name, each in on_disk.items() if each.count}
    for name, lane in lanes.items():
        if lane.attached or lane.count:
            state = lane.state if lane.attached else "gone"
            oldest_s = on_disk[name].oldest_s if name in on_disk and lane.count else 0.0
            outputs[name] = OutputStock(*name, state, lane.count, lane.bytes, oldest_s, dict(lane.counts))
    return [outputs[name] for name in sorted(outputs)]
