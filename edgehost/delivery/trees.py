"""Trees: the rows of a table in the pages of a database, though pages between it and them are broken. Knows SQLite's b-trees.

    whose a page is      as the map says that auto_vacuum keeps of all pages, and as the page says that names it
    free by the map      nobody's, whatever names it: the rows on it are old
    a page is whole      if its rows, its gaps and its free room lie side by side and fill it, and its numbers rise
    a row is given       if every length in it fits, and the pages that it goes on in end where it does

Each page of a tree is read once, however broken ones lead astray. Must not know tables, but for their first page and whether
their rows have a number; nor whether the values of a row make sense.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from edgehost.delivery.pages import SIZE, Pages

Row = tuple[Any, ...]

_FIRST, _FREE, _GOES_ON, _GOES_ON_AGAIN, _BELOW = 1, 2, 3, 4, 5
"""What the map says of a page: of a tree its first; of no use; part of a row; another part; below a page of a tree."""
_MAPPED = SIZE // 5
_NUMBERED_LEAF, _NUMBERED_NODE, _LEAF, _NODE = 13, 5, 10, 2
_LEAST_HELD = (SIZE - 12) * 32 // 255 - 23
_MOST_HELD = (SIZE - 12) * 64 // 255 - 23
_MOST_HELD_NUMBERED = SIZE - 35
_INTEGERS = (0, 1, 2, 3, 4, 6, 8)


class _Cell(NamedTuple):
    """A row as it lies on its page."""

    start: int
    number: int
    at: int
    size: int
    held: int
    """How many of its bytes are on the page; the rest is in others."""

    @property
    def end(self) -> int:
        return max(self.start + 4, self.at + self.held + 4 * (self.held < self.size))


class Trees:
    """Of one database."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._kinds = bytearray(pages.count + 1)
        """What the map says of each page; 0 if it says nothing of sense."""
        self._below: dict[int, list[int]] = defaultdict(list)
        self._read_map()

    def rows(self, first: int, numbered: bool) -> Iterator[tuple[Row, bool]]:
        """Of the tree that begins on this page, in no order, and whether the page of each is whole; a numbered row's number is
        its first value.
        """
        leaf, node = (_NUMBERED_LEAF, _NUMBERED_NODE) if numbered else (_LEAF, _NODE)
        for page in self._belonging(first, node):
            if page[0] != leaf and (page[0] != node or numbered):
                continue  # broken, or it names other pages and has no row
            cells = list(_cells(page, numbered))
            whole = _fill(page, cells)
            for cell in cells:
                try:
                    values = _values(self._bytes(page, cell))
                except (ValueError, IndexError, struct.error):
                    continue
                if not numbered:
                    yield tuple(values), whole
                elif values[0] is None:  # the number stands before the row, not in it
                    yield (cell.number, *values[1:]), whole

    def _belonging(self, first: int, node: int) -> Iterator[bytes]:
        """Every page of a tree that there is; those of kind `node` name others."""
        if first >= len(self._kinds) or self._kinds[first] not in (0, _FIRST):
            return  # an older version has no such table, and something else's page there
        waiting, seen = [first], {first}
        while waiting:
            number = waiting.pop()
            page = self._pages[number]
            if page:
                yield page
            below = set(self._below.get(number, ()))
            if page[:1] == bytes([node]):
                below.update(filter(self._in_use, _named(page)))
            waiting += below - seen
            seen |= below

    def _in_use(self, number: int) -> bool:
        """Whether there is such a page, and something may name it."""
        return number < len(self._kinds) and self._kinds[number] not in (_FIRST, _FREE)

    def _read_map(self) -> None:
        page = b""
        for number in range(3, self._pages.in_use + 1):
            place = (number - 2) % (_MAPPED + 1)
            if place == 1:
                page = self._pages[number - 1].ljust(SIZE, b"\0")
            if place == 0:
                continue
            kind, owner = struct.unpack_from(">BI", page, 5 * (place - 1))
            if (kind in (_FIRST, _FREE) and not owner) or (_GOES_ON <= kind <= _BELOW and 2 < owner < len(self._kinds)):
                self._kinds[number] = kind
                if kind == _BELOW:
                    self._below[owner].append(number)

    def _bytes(self, page: bytes, cell: _Cell) -> bytes:
        """All of a row, from the pages too that it goes on in. Raises ValueError if they are not its own."""
        data = bytearray(page[cell.at : cell.at + cell.held])
        following = int.from_bytes(page[cell.at + cell.held : cell.end], "big") if cell.held < cell.size else 0
        gone = set[int]()
        while following and len(data) < cell.size:
            if following in gone or not self._in_use(following):
                raise ValueError("it goes on in a page that is no part of it")
            gone.add(following)
            more = self._pages[following]
            data += more[4 : 4 + cell.size - len(data)]
            following = int.from_bytes(more[:4], "big")
        if len(data) != cell.size or following:
            raise ValueError("it ends too early or too late")
        return bytes(data)


def _named(page: bytes) -> Iterator[int]:
    """The pages below one."""
    yield int.from_bytes(page[8:12], "big")
    for start in _starts(page):
        yield int.from_bytes(page[start : start + 4], "big")


def _starts(page: bytes) -> Iterator[int]:
    """Where on the page its rows begin."""
    head = _head(page)
    for at in range(head, min(head + 2 * int.from_bytes(page[3:5], "big"), SIZE - 1), 2):
        yield int.from_bytes(page[at : at + 2], "big")


def _head(page: bytes) -> int:
    return 12 if page[0] in (_NUMBERED_NODE, _NODE) else 8


def _cells(page: bytes, numbered: bool) -> Iterator[_Cell]:
    most = _MOST_HELD_NUMBERED if numbered else _MOST_HELD
    for start in _starts(page):
        number = 0
        try:
            size, at = _varint(page, start + 4 * (page[0] == _NODE))
            if numbered:
                number, at = _varint(page, at)
        except IndexError:
            continue
        held = size
        if size > most:
            held = _LEAST_HELD + (size - _LEAST_HELD) % (SIZE - 4)
            held = held if held <= most else _LEAST_HELD
        yield _Cell(start, number - (number >> 63 << 64), at, size, held)


def _fill(page: bytes, cells: list[_Cell]) -> bool:
    """Whether they and the free room fill the page, but for the gaps that it counts itself."""
    spans = [(cell.start, cell.end) for cell in cells]
    free = int.from_bytes(page[1:3], "big")
    while free and len(spans) < SIZE:
        spans.append((free, free + int.from_bytes(page[free + 2 : free + 4], "big")))
        free = int.from_bytes(page[free : free + 2], "big")
    count, end = struct.unpack_from(">HH", page.ljust(SIZE, b"\0"), 3)
    gaps = 0
    for start, after in [*sorted(spans), (SIZE, SIZE)]:
        if start < end:
            return False
        gaps += start - end
        end = after
    rising = all(one.number < other.number for one, other in pairwise(cells))
    return gaps == page[7] and len(cells) == count and (rising or not any(cell.number for cell in cells))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    if (value := data[at]) < 0x80:
        return value, at + 1
    value = 0
    for end in range(at, at + 8):
        value = value << 7 | data[end] & 0x7F
        if data[end] < 0x80:
            return value, end + 1
    return value << 8 | data[at + 8], at + 9


def _values(data: bytes) -> list[Any]:
    """Of a row. Raises ValueError, IndexError or struct.error if it is broken."""
    head, at = _varint(data, 0)
    kinds = []
    while at < head:
        kind, at = _varint(data, at)
        kinds.append(kind)
    values: list[Any] = []
    for kind in kinds:
        if kind in (10, 11):
            raise ValueError("no value is of this kind")
        size = (kind - 12) // 2 if kind >= 12 else _INTEGERS[kind] if kind < 7 else 8 if kind == 7 else 0
        values.append(_value(kind, data[at : at + size]))
        at += size
    if at != len(data) or not values:
        raise ValueError("its lengths do not fit")
    return values


def _value(kind: int, data: bytes) -> Any:
    if kind >= 12:
        return data.decode("utf-8", "surrogateescape") if kind % 2 else data
    if kind == 7:
        return struct.unpack(">d", data)[0]
    if kind in (8, 9):
        return kind - 8
    return int.from_bytes(data, "big", signed=True) if kind else None
