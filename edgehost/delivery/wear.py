"""The wear account: how much is written a day, and how the journal saves when a day's bytes run out. Pure: numbers alone.

    written today              between two transactions       dead letters of events with no other record
    under 80 % of the cap      nothing                        kept
    80 % to 100 %              0.1 s, rising to 1 s           kept
    100 % and more             1 s                            not kept, and counted

SQLite writes whole pages, and each transaction those it has touched: what shares a transaction shares its pages, so a rest makes
the same events cost less. No promise is broken by it; what waits for a promise waits up to a second longer. A day is one of this
machine's clock (UTC): a wrong clock puts bytes under another day and loses none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Written = dict[str, dict[int, int]]
"""Bytes by component and day (days since 1970)."""

DAYS_KEPT: Final = 60
EARLIER: Final = -1
"""The day under which all older ones are put together."""
_SAVES_FROM = 0.8
_LEAST_REST_S = 0.1
_MOST_REST_S = 1.0
_DAY_S = 86400


class Worn(NamedTuple):
    """What one component has written."""

    component: str
    today_bytes: int
    week_bytes: int
    """Today and the six days before."""
    total_bytes: int


class Thrift(NamedTuple):
    """How the journal is to save now."""

    stage: Literal["free", "resting", "spent"]
    rest_s: float


def day_of(unix_s: float) -> int:
    """The day of a Unix time."""
    return int(unix_s // _DAY_S)


def thrift(today_bytes: int, cap_bytes: int | None) -> Thrift:
    """By the table above."""
    if cap_bytes is None or today_bytes < cap_bytes * _SAVES_FROM:
        return Thrift("free", 0.0)
    if today_bytes >= cap_bytes:
        return Thrift("spent", _MOST_REST_S)
    part = (today_bytes / cap_bytes - _SAVES_FROM) / (1.0 - _SAVES_FROM)
    return Thrift("resting", _LEAST_REST_S + part * (_MOST_REST_S - _LEAST_REST_S))


def account(written: Mapping[str, Mapping[int, int]], today: int) -> list[Worn]:
    """One line for each component, by name."""
    week = range(today - 6, today + 1)
    return [
        Worn(component, days.get(today, 0), sum(days.get(day, 0) for day in week if day >= 0), sum(days.values()))
        for component, days in sorted(written.items())
    ]


def added(one: Mapping[str, Mapping[int, int]], other: Mapping[str, Mapping[int, int]]) -> Written:
    """Both accounts in one."""
    total: Written = {}
    for account_ in (one, other):
        for component, days in account_.items():
            into = total.setdefault(component, {})
            for day, count in days.items():
                into[day] = into.get(day, 0) + count
    return total


def shortened(written: Mapping[str, Mapping[int, int]]) -> Written:
    """The newest DAYS_KEPT days of each component; what is older counts under EARLIER. By their number, not by today's date: a
    clock that was years ahead for a minute must not push everything out.
    """
    short: Written = {}
    for component, days in written.items():
        newest = sorted(day for day in days if day != EARLIER)[-DAYS_KEPT:]
        kept = {day: days[day] for day in newest}
        earlier = sum(days.values()) - sum(kept.values())
        short[component] = {EARLIER: earlier, **kept} if earlier else kept
    return short
