"""Sift: which records of a read are new, which have changed, and what must be remembered to know it next time. Pure.

    rules          a record is known by    remembered
    key            the key's values        each key of the last read with its content's digest
    no key         its whole content       each digest of the last read
    cursor         its place (a field that grows: an id, a time)    the highest place, and the records that stand just there

What a read no longer holds is forgotten, so memory is never larger than one read; with a cursor it is the place and its ties.
Ties are why a query may ask for `>= :cursor`: what came later within the same second is found, and nothing is found twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import msgspec
from msgspec import Struct

from edgehost.polling.field import pick

Place = int | float | str
Change = Literal["new", "changed", "same"]


class Rules(Struct, frozen=True):
    """What makes a record known. `key` and `cursor` are paths of fields in it."""

    key: tuple[str, ...] = ()
    cursor: str = ""
    emit: Literal["changed", "new", "always"] = "changed"


class Memory(Struct, frozen=True):
    """What is remembered between two reads, and across restarts."""

    count: int = 0
    """Reads that had something to emit: part of an event's id, so that a value which comes back is another event."""
    cursor: Place | None = None
    seen: dict[str, str] = {}


@dataclass(frozen=True)
class Found:
    """One record to emit. `digest` is of its whole content."""

    record: Any
    change: Change
    digest: str


@dataclass(frozen=True)
class Sifted:
    """What one read came to. `memory` holds once every `found` record has been handled, and is the one before, the very object,
    if the read has not moved it. `unfit`: why records were left out."""

    found: tuple[Found, ...]
    memory: Memory
    unfit: tuple[str, ...]


def sift(records: Iterable[Any], rules: Rules, memory: Memory) -> Sifted:
    """Sort out one read. The records keep their order."""
    found: list[Found] = []
    unfit: list[str] = []
    here: dict[tuple[str, Place | None], Any] = {}
    seen: dict[str, str] = dict(memory.seen) if rules.cursor else {}
    top = memory.cursor
    for record in records:
        digest = _digest(record)
        try:
            name = _name(record, rules.key) if rules.key else digest
            place = _place(record, rules.cursor, top) if rules.cursor else None
            twin = here.setdefault((name, place), record)
            if twin != record:
                raise ValueError(f"two records have the key {name}; name fields in `key` that tell them apart")
        except ValueError as error:
            unfit.append(str(error))
            continue
        if twin is not record:
            continue
        change = _change(name, digest, place, memory)
        if place is not None and _after(place, top):
            top, seen = place, {}
        if place == top:
            seen[name] = digest
        if change == "new" or rules.emit == "always" or (change == "changed" and rules.emit == "changed"):
            found.append(Found(record, change, digest))
    now = Memory(memory.count + bool(found), top, seen)
    return Sifted(tuple(found), memory if now == memory else now, tuple(unfit))


def _change(name: str, digest: str, place: Place | None, memory: Memory) -> Change:
    if place is not None and place != memory.cursor:
        return "new" if _after(place, memory.cursor) else "same"
    known = memory.seen.get(name)
    if known is None:
        return "new"
    return "same" if known == digest else "changed"


def _after(place: Place, other: Place | None) -> bool:
    return other is None or place > other  # type: ignore[operator]  # _place saw to it that they compare


def _name(record: Any, key: tuple[str, ...]) -> str:
    return _json([pick(record, path) for path in key]).decode()


def _place(record: Any, path: str, top: Place | None) -> Place:
    """Where a record stands. A place must compare with those before it: numbers with numbers, text with text."""
    place = pick(record, path)
    if isinstance(place, bool) or not isinstance(place, (int, float, str)) or place != place:
        raise ValueError(f"the cursor {path!r} of a record is {_json(place).decode()[:40]}; it must be a number or text")
    if top is not None and isinstance(place, str) is not isinstance(top, str):
        raise ValueError(f"the cursor {path!r} of a record is {place!r} and was {top!r} before; it must stay text or a number")
    return place


def _digest(record: Any) -> str:
    return blake2b(_json(record), digest_size=8).hexdigest()


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")
