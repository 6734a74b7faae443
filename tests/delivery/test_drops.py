"""One message too many: every verdict, and the pace of a backlog. Numbers alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.delivery.drops import Fill, Pace, verdict
from edgehost.manifest.model import FullPolicy

POLICIES: list[FullPolicy] = ["drop_oldest", "drop_newest", "drop_low_priority", "block"]
SIZES = st.integers(0, 1000)
FILLS = st.builds(Fill, st.just(1), st.integers(0, 9), SIZES, st.booleans())


POLICY = st.sampled_from(POLICIES)


@given(st.integers(1, 1000), FILLS, st.none() | SIZES, POLICY, st.integers(0, 5000), SIZES, st.lists(FILLS, max_size=4))
def test_every_verdict_keeps_its_promise(
    size: int, mine: Fill, quota: int | None, policy: FullPolicy, more: int, limit: int, others: list[Fill]
) -> None:
    others = [fill._replace(queue=number) for number, fill in enumerate(others, 2)]
    used = mine.bytes + sum(fill.bytes for fill in others) + more
    found = verdict(size, mine, quota, policy, used, limit, others)
    fits = used + size <= limit and (quota is None or mine.bytes + size <= quota)
    assert (found.what == "store") == fits
    if found.what == "evict":
        victim = next(fill for fill in (mine, *others) if fill.queue == found.victim)
        assert 0 < found.bytes <= victim.bytes and victim.evictable
        assert policy in ("drop_oldest", "drop_low_priority")
        assert victim is mine or (policy == "drop_low_priority" and victim.priority < mine.priority)
    if found.what == "block":
        assert policy == "block" and size <= limit and (quota is None or size <= quota)
    if policy == "drop_newest":
        assert found.what in ("store", "drop")


@pytest.mark.parametrize(
    ("policy", "mine", "others", "expected"),
    [
        ("drop_newest", Fill(1, 5, 90), [], ("drop", 0, 0)),
        ("block", Fill(1, 5, 90), [], ("block", 0, 0)),
        ("drop_oldest", Fill(1, 5, 90), [], ("evict", 1, 10)),
        ("drop_oldest", Fill(1, 5, 0), [Fill(2, 5, 90)], ("drop", 0, 0)),
        ("drop_oldest", Fill(1, 5, 90, evictable=False), [], ("drop", 0, 0)),
        ("drop_low_priority", Fill(1, 5, 40), [Fill(2, 4, 25), Fill(3, 4, 25)], ("evict", 2, 10)),
        ("drop_low_priority", Fill(1, 5, 40), [Fill(2, 4, 30), Fill(3, 3, 20)], ("evict", 3, 10)),
        ("drop_low_priority", Fill(1, 5, 40), [Fill(2, 5, 50)], ("drop", 0, 0)),
        ("drop_low_priority", Fill(1, 5, 40), [Fill(2, 3, 50, evictable=False)], ("drop", 0, 0)),
    ],
)
def test_at_the_limit(policy: FullPolicy, mine: Fill, others: list[Fill], expected: Any) -> None:
    assert verdict(20, mine, None, policy, 90, 100, others) == expected


def test_the_own_quota_is_made_good_by_the_own_messages_alone() -> None:
    assert verdict(20, Fill(1, 5, 45), 50, "drop_low_priority", 60, 1000, [Fill(2, 0, 15)]) == ("evict", 1, 15)
    assert verdict(20, Fill(1, 5, 45), 50, "drop_oldest", 60, 1000, []) == ("evict", 1, 15)


def test_what_never_has_room_is_dropped_and_what_will_have_waits() -> None:
    assert verdict(200, Fill(1, 5, 0), None, "block", 0, 100, []).what == "drop"
    assert verdict(200, Fill(1, 5, 0), None, "block", 0, 100, [], most=300).what == "block"
    assert verdict(200, Fill(1, 5, 0), None, "drop_oldest", 0, 100, [], most=300).what == "drop"


def leaving(pace: Pace, start: float, seconds: float) -> int:
    """How many leave in that time, asked as often as the pace says."""
    now, count = start, 0
    while now < start + seconds:
        wait = pace.take(now)
        count += not wait
        now += wait
    return count


def test_a_backlog_leaves_at_its_pace() -> None:
    assert 1000 <= leaving(Pace(100.0, 0.0), 0.0, 10.0) <= 1011


def test_a_backlog_that_grows_leaves_twice_as_fast_as_it_grows() -> None:
    pace, now, left = Pace(10.0, 0.0), 0.0, 0
    for _ in range(3000):  # 100 a second
        now += 0.01
        pace.arrived(now)
    for _ in range(1000):
        now += 0.01
        pace.arrived(now)
        while not pace.take(now):
            left += 1
    assert 1900 <= left <= 2100


def test_what_came_long_ago_hurries_nothing() -> None:
    pace = Pace(10.0, 0.0)
    for number in range(1000):
        pace.arrived(number * 0.001)
    assert pace.rate(1.0) > 150
    assert pace.rate(12.0) == 10.0
    assert leaving(pace, 12.0, 10.0) <= 130
