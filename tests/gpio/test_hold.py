"""Which moments of a held button are worth an event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.gpio.hold import Hold
from edgehost.gpio.line import Edge


def press(hold: Hold, time: int) -> list[tuple[int, int, int]]:
    return [(held.timestamp_ns, held.held_ns, held.count) for held in hold.edge(Edge(True, time, 1))]


def release(hold: Hold, time: int) -> list[tuple[int, int, int]]:
    return [(held.timestamp_ns, held.held_ns, held.count) for held in hold.edge(Edge(False, time, 2))]


def tick(hold: Hold, time: int) -> list[tuple[int, int, int]]:
    return [(held.timestamp_ns, held.held_ns, held.count) for held in hold.tick(time)]


def test_a_short_press_is_none() -> None:
    hold = Hold(100, 0)
    assert press(hold, 10) == []
    assert tick(hold, 109) == []
    assert release(hold, 109) == []
    assert hold.due_ns is None and tick(hold, 500) == []


def test_a_long_press_is_one_without_repeat() -> None:
    hold = Hold(100, 0)
    press(hold, 10)
    assert hold.due_ns == 110
    assert tick(hold, 110) == [(110, 100, 1)]
    assert hold.due_ns is None
    assert release(hold, 500) == []


def test_it_repeats_until_the_release() -> None:
    hold = Hold(100, 20)
    press(hold, 10)
    assert [tick(hold, time) for time in (110, 129, 130, 150)] == [[(110, 100, 1)], [], [(130, 120, 2)], [(150, 140, 3)]]
    assert release(hold, 155) == []
    assert hold.due_ns is None


def test_what_a_late_caller_missed_is_left_out() -> None:
    hold = Hold(100, 20)
    press(hold, 10)
    assert tick(hold, 175) == [(170, 160, 1)]
    assert hold.due_ns == 190


def test_an_edge_brings_what_was_due_before_it() -> None:
    hold = Hold(100, 0)
    press(hold, 10)
    assert release(hold, 300) == [(110, 100, 1)]


def test_a_second_rising_edge_begins_anew() -> None:
    """The falling edge between was lost."""
    hold = Hold(100, 0)
    press(hold, 10)
    assert press(hold, 60) == []
    assert tick(hold, 110) == [] and tick(hold, 160) == [(160, 100, 1)]


@given(st.integers(1, 50), st.integers(0, 50), st.lists(st.integers(1, 60), max_size=30), st.integers(0, 400))
def test_counts_rise_and_no_moment_is_early(hold_ns: int, repeat_ns: int, gaps: list[int], released: int) -> None:
    hold = Hold(hold_ns, repeat_ns)
    hold.edge(Edge(True, 0, 1))
    now, seen = 0, []
    for gap in gaps:
        now += gap
        if now >= released:
            break
        seen += hold.tick(now)
        assert all(held.timestamp_ns <= now for held in seen)
    seen += hold.edge(Edge(False, max(now, released), 2))
    assert [held.count for held in seen] == list(range(1, len(seen) + 1))
    assert all(held.held_ns == held.timestamp_ns >= hold_ns for held in seen)
    assert len({held.timestamp_ns for held in seen}) == len(seen)
    assert hold.due_ns is None


@pytest.mark.parametrize("repeat_ns", [0, 5])
def test_nothing_is_due_before_the_first_edge(repeat_ns: int) -> None:
    assert Hold(10, repeat_ns).due_ns is None
    assert tick(Hold(10, repeat_ns), 10**12) == []
