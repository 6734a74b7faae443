"""Trees: the rows of a table in the pages of a database, though pages between it and them are broken. Knows SQLite's b-trees
(https://www.sqlite.org/fileformat2.html).

    whose a page is      as the pointer map of auto_vacuum says, and as the interior page says that names it
    free by the map      nobody's, whatever names it: the rows on it are old
    a page is whole      if its rows, its gaps and its free room lie side by side and fill it, and its rowids rise
    a row is given       if every length in it fits, and its overflow pages end where it does

Each page of a tree is read once, however broken ones lead astray. Must not know tables, but for their root and whether their rows
have a rowid; nor whether the values of a row make sense.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from edgehost.delivery.pages import SIZE, Pages

Row = tuple[Any, ...]

_ROOT, _FREE, _OVERFLOW_FIRST, _OVERFLOW, _BELOW = 1, 2, 3, 4, 5
"""What the pointer map says of a page: root of a tree; free; a row's first overflow page; another one; below a page of a tree."""
_MAPPED = SIZE // 5
_TABLE_LEAF, _TABLE_INTERIOR, _INDEX_LEAF, _INDEX_INTERIOR = 13, 5, 10, 2
_LEAST_LOCAL = (SIZE - 12) * 32 // 255 - 23
_MOST_LOCAL_INDEX = (SIZE - 12) * 64 // 255 - 23
_MOST_LOCAL_TABLE = SIZE - 35
_INTEGERS = (0, 1, 2, 3, 4, 6, 8)


class _Cell(NamedTuple):
    """A row as it lies on its page."""

    start: int
    rowid: int
    at: int
    size: int
    local: int
    """How many of its bytes are on the page; the rest is in others."""

    @property
    def end(self) -> int:
        return max(self.start + 4, self.at + self.local + 4 * (self.local < self.size))


class Trees:
    """Of one database."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._kinds = bytearray(pages.count + 1)
        """What the map says of each page; 0 if it says nothing of sense."""
        self._below: dict[int, list[int]] = defaultdict(list)
        self._read_map()

    def rows(self, root: int, has_rowid: bool) -> Iterator[tuple[Row, bool]]:
        """Of the tree of this root, in no order, and whether the page of each is whole. A rowid is the row's first value."""
        leaf, interior = (_TABLE_LEAF, _TABLE_INTERIOR) if has_rowid else (_INDEX_LEAF, _INDEX_INTERIOR)
        for page in self._belonging(root, interior):
            if page[0] != leaf and (page[0] != interior or has_rowid):
                continue  # broken, or it names other pages and has no row
            cells = list(_cells(page, has_rowid))
            whole = _fill(page, cells)
            for cell in cells:
                try:
                    values = _values(self._bytes(page, cell))
                except (ValueError, IndexError, struct.error):
                    continue
                if not has_rowid:
                    yield tuple(values), whole
                elif values[0] is None:  # the rowid stands before the row, not in it
                    yield (cell.rowid, *values[1:]), whole

    def _belonging(self, root: int, interior: int) -> Iterator[bytes]:
        """Every page of a tree that there is; those of kind `interior` name others."""
        if root >= len(self._kinds) or self._kinds[root] not in (0, _ROOT):
            return  # an older version has no such table, and something else's page there
        waiting, seen = [root], {root}
        while waiting:
            number = waiting.pop()
            page = self._pages[number]
            if page:
                yield page
            below = set(self._below.get(number, ()))
            if page[:1] == bytes([interior]):
                below.update(filter(self._in_use, _named(page)))
            waiting += below - seen
            seen |= below

    def _in_use(self, number: int) -> bool:
        """Whether there is such a page, and something may name it."""
        return number < len(self._kinds) and self._kinds[number] not in (_ROOT, _FREE)

    def _read_map(self) -> None:
        page = b""
        for number in range(3, self._pages.in_use + 1):
            place = (number - 2) % (_MAPPED + 1)
            if place == 1:
                page = self._pages[number - 1].ljust(SIZE, b"\0")
            if place == 0:
                continue
            kind, owner = struct.unpack_from(">BI", page, 5 * (place - 1))
            if (kind in (_ROOT, _FREE) and not owner) or (_OVERFLOW_FIRST <= kind <= _BELOW and 2 < owner < len(self._kinds)):
                self._kinds[number] = kind
                if kind == _BELOW:
                    self._below[owner].append(number)

    def _bytes(self, page: bytes, cell: _Cell) -> bytes:
        """All of a row, from its overflow pages too. Raises ValueError if they are not its own."""
        data = bytearray(page[cell.at : cell.at + cell.local])
        following = int.from_bytes(page[cell.at + cell.local : cell.end], "big") if cell.local < cell.size else 0
        gone = set[int]()
        while following and len(data) < cell.size:
            if following in gone or not self._in_use(following):
                raise ValueError("its overflow page is no part of it")
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
    return 12 if page[0] in (_TABLE_INTERIOR, _INDEX_INTERIOR) else 8


def _cells(page: bytes, has_rowid: bool) -> Iterator[_Cell]:
    most = _MOST_LOCAL_TABLE if has_rowid else _MOST_LOCAL_INDEX
    for start in _starts(page):
        rowid = 0
        try:
            size, at = _varint(page, start + 4 * (page[0] == _INDEX_INTERIOR))
            if has_rowid:
                rowid, at = _varint(page, at)
        except IndexError:
            continue
        local = size
        if size > most:
            local = _LEAST_LOCAL + (size - _LEAST_LOCAL) % (SIZE - 4)
            local = local if local <= most else _LEAST_LOCAL
        yield _Cell(start, rowid - (rowid >> 63 << 64), at, size, local)


def _fill(page: bytes, cells: list[_Cell]) -> bool:
    """Whether they and the free room fill the page, but for the gaps that it counts itself: its fragmented bytes."""
    page = page.ljust(SIZE, b"\0")  # the file may end in it
    spans = [(cell.start, cell.end) for cell in cells]
    free = int.from_bytes(page[1:3], "big")
    while free and len(spans) < SIZE:
        spans.append((free, free + int.from_bytes(page[free + 2 : free + 4], "big")))
        free = int.from_bytes(page[free : free + 2], "big")
    count, end = struct.unpack_from(">HH", page, 3)
    gaps = 0
    for start, after in [*sorted(spans), (SIZE, SIZE)]:
        if start < end:
            return False
        gaps += start - end
        end = after
    rising = all(one.rowid < other.rowid for one, other in pairwise(cells))
    return gaps == page[7] and len(cells) == count and (rising or not any(cell.rowid for cell in cells))


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
