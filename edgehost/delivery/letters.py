"""What is asked of the dead letters in the journal: found, shown, dropped, moved back. SQL alone, run in the journal's thread.

A letter that is replayed is moved in one transaction: at no moment it is in both places, or in none. Must not know which
functions there are, or who is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edgehost.delivery.rows import StoredRow
from edgehost.errors import ControlError
from edgehost.event import Event
from edgehost.letter import Letter, Letters, Which, WholeLetter
from edgehost.parcel import Parcel

if TYPE_CHECKING:
    import sqlite3

KeyOf = Callable[[Event], "str | None"]

_COLUMNS = "number, function, trigger, output, event_id, code, error, attempts, received, failed, at, length(body)"
_ERROR_CHARACTERS = 2000
"""Of an error in a list; `whole` has all of it."""
_PAGE = 256
_PAGE_BYTES = 1024 * 1024

_event = msgspec.msgpack.Decoder(Event).decode
_parcel = msgspec.msgpack.Decoder(Parcel).decode


class Group(NamedTuple):
    """How many of the letters meant have this in common."""

    function: str
    trigger: str
    output: str
    many: int
    newest: int


class Chosen(NamedTuple):
    """A letter that is about to be replayed. `parcel` is None for an event."""

    number: int
    function: str
    trigger: str
    output: str
    size_bytes: int
    at: float
    key: str | None
    parcel: Parcel | None


def find(connection: sqlite3.Connection, which: Which, limit: int, now: float) -> Letters:
    """The newest `limit` of those meant. `now` is the time of the journal's clock, here and everywhere below."""
    where, values = _where(which, now)
    select = f"SELECT {_COLUMNS} FROM dead WHERE {where} ORDER BY number DESC LIMIT ?"
    letters = [_letter(row, now, _ERROR_CHARACTERS) for row in connection.execute(select, (*values, limit))]
    counts = connection.execute(
        f"SELECT function, count(*) AS many FROM dead WHERE {where} GROUP BY function ORDER BY many DESC, function", values
    )
    functions: dict[str, int] = dict(counts.fetchall())
    return Letters(letters, sum(functions.values()), functions)


def whole(connection: sqlite3.Connection, number: int, now: float) -> WholeLetter:
    """One with what it holds. Raises ControlError if it is not there, or what it holds cannot be read."""
    row = connection.execute(f"SELECT {_COLUMNS}, body FROM dead WHERE number = ?", (number,)).fetchone()
    if row is None:
        raise ControlError(f"there is no dead letter {number}; `edgehost dead-letters list` shows those there are")
    letter = _letter(row[:-1], now)
    held = _read(number, letter.output, row[-1])
    return WholeLetter(letter, held, None) if isinstance(held, Event) else WholeLetter(letter, None, held)


def groups(connection: sqlite3.Connection, which: Which, now: float) -> list[Group]:
    """What those meant have in common. Raises ControlError if one that is named by its number is not among them."""
    where, values = _where(which, now)
    if which.numbers:
        there = {number for (number,) in connection.execute(f"SELECT number FROM dead WHERE {where}", values)}
        if lost := [number for number in which.numbers if number not in there]:
            raise ControlError(_missing(lost))
    select = f"SELECT function, trigger, output, count(*), max(number) FROM dead WHERE {where} GROUP BY function, trigger, output"
    return [Group(*row) for row in connection.execute(select, values)]


def drop(connection: sqlite3.Connection, which: Which, now: float) -> int:
    """Remove those meant; gives how many. Raises ControlError as `groups`."""
    groups(connection, which, now)
    where, values = _where(which, now)
    return connection.execute(f"DELETE FROM dead WHERE {where}", values).rowcount


def trim(connection: sqlite3.Connection, limit: int) -> tuple[int, int]:
    """Remove the oldest beyond `limit`; gives how many there are then, and how many went."""
    (count,) = connection.execute("SELECT count(*) FROM dead").fetchone()
    if count <= limit:
        return count, 0
    oldest = "SELECT number FROM dead ORDER BY number LIMIT ?"
    gone = connection.execute(f"DELETE FROM dead WHERE number IN ({oldest})", (count - limit,)).rowcount
    return count - gone, gone


def page(
    connection: sqlite3.Connection,
    which: Which,
    now: float,
    after: int,
    newest: int,
    keys: Mapping[tuple[str, str], KeyOf],
) -> list[Chosen]:
    """The next of those meant, oldest first: what one transaction moves. Raises ControlError for one that cannot be read."""
    where, values = _where(which, now)
    select = (
        "SELECT number, function, trigger, output, length(body), at, body FROM dead "
        f"WHERE {where} AND number > ? AND number <= ? ORDER BY number"
    )
    chosen: list[Chosen] = []
    size_bytes = 0
    for number, function, trigger, output, size, at, body in connection.execute(select, (*values, after, newest)):
        held = _read(number, output, body)
        key_of = keys.get((function, trigger))
        key = key_of(held) if key_of is not None and isinstance(held, Event) else None
        chosen.append(Chosen(number, function, trigger, output, size, at, key, held if isinstance(held, Parcel) else None))
        size_bytes += size
        if len(chosen) >= _PAGE or size_bytes >= _PAGE_BYTES:
            break
    return chosen


def move(
    connection: sqlite3.Connection,
    events: Sequence[tuple[int, int, str | None]],
    messages: Sequence[tuple[int, StoredRow]],
    now: float,
) -> set[int]:
    """Put events (number, place, key) and messages back where they came from. Gives the numbers: one that somebody else has
    dropped meanwhile is not among them."""
    moved: set[int] = set()
    for number, place, key in events:
        back = (
            "INSERT INTO events (place, event, key, at, attempts) "
            "SELECT ?2, body, ?3, ?4, 0 FROM dead WHERE number = ?1 AND output = ''"
        )
        if connection.execute(back, (number, place, key, now)).rowcount and _take(connection, number):
            moved.add(number)
            connection.execute("DELETE FROM answered WHERE key = ?", (key,))  # else it would be answered instead of run
    for number, row in messages:
        if _take(connection, number):
            moved.add(number)
            back = 'INSERT INTO outbox (place, "to", parcel, at, until) VALUES (?, ?, ?, ?, ?)'
            connection.execute(back, (row.place, row.to, row.parcel, row.at, row.until))
    return moved


def _take(connection: sqlite3.Connection, number: int) -> bool:
    return connection.execute("DELETE FROM dead WHERE number = ?", (number,)).rowcount > 0


def _where(which: Which, now: float) -> tuple[str, list[object]]:
    """The condition and its values."""
    parts: list[tuple[str, list[object]]] = [("1", [])]
    if which.numbers:
        parts.append((f"number IN ({', '.join('?' * len(which.numbers))})", list(which.numbers)))
    for column in ("function", "trigger", "output", "code", "event_id"):
        if value := getattr(which, column):
            parts.append((f"{column} = ?", [value]))
    if which.kind != "any":
        parts.append(("output = ''" if which.kind == "event" else "output <> ''", []))
    if which.text:
        parts.append(("instr(lower(error), lower(?)) > 0", [which.text]))
    if which.older_s is not None:
        parts.append(("at <= ?", [now - which.older_s]))
    if which.newer_s is not None:
        parts.append(("at >= ?", [now - which.newer_s]))
    return " AND ".join(part for part, _ in parts), [value for _, values in parts for value in values]


def _letter(row: tuple[object, ...], now: float, most: int | None = None) -> Letter:
    number, function, trigger, output, event_id, code, error, attempts, received, failed, at, size = row
    told = (number, function, trigger, output, event_id, code, str(error)[:most], attempts, received, failed)
    return Letter(*told, max(0.0, now - float(str(at))), size)  # type: ignore[arg-type]


def _read(number: int, output: str, body: bytes) -> Event | Parcel:
    try:
        return _parcel(body) if output else _event(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise ControlError(
            f"dead letter {number} cannot be read ({error}); drop it with `edgehost dead-letters drop {number}`"
        ) from error


def _missing(numbers: Sequence[int]) -> str:
    what = f"dead letter {numbers[0]}" if len(numbers) == 1 else f"dead letters {', '.join(map(str, numbers))}"
    return f"no {what} that fits; `edgehost dead-letters list` shows those there are"
