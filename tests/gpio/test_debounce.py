"""Of a bouncing line's edges, those after which it stayed quiet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.gpio.debounce import Debounce
from edgehost.gpio.line import Edge

PERIOD = 10


def run(level: bool, moments: list[tuple[int, bool]], late: int = 0) -> list[tuple[int, bool]]:
    """What is settled of these raw edges, when the caller's timer fires `late` after it is due."""
    debounce, settled = Debounce(PERIOD, level), []
    for number, (time, rising) in enumerate(moments, 1):
        if debounce.due_ns is not None and debounce.due_ns + late <= time:
            settled += debounce.tick(debounce.due_ns + late)
        settled += debounce.edge(Edge(rising, time, number))
    if debounce.due_ns is not None:
        settled += debounce.tick(debounce.due_ns + late)
    assert debounce.due_ns is None
    return [(edge.timestamp_ns, edge.rising) for edge in settled]


@pytest.mark.parametrize(
    ("level", "moments", "expected"),
    [
        (False, [], []),
        (False, [(5, True)], [(15, True)]),
        (False, [(5, True), (6, False)], []),
        (False, [(5, True), (6, False), (7, True)], [(17, True)]),
        (False, [(5, True), (30, False)], [(15, True), (40, False)]),
        (False, [(5, True), (15, False)], [(15, True), (25, False)]),
        (False, [(5, True), (14, False)], []),
        (False, [(5, True), (30, False), (31, True)], [(15, True)]),
        (False, [(5, False)], []),
        (True, [(5, True), (6, False)], [(16, False)]),
        (False, [(5, True), (6, True)], [(16, True)]),
    ],
    ids=repr,
)
def test_the_table(level: bool, moments: list[tuple[int, bool]], expected: list[tuple[int, bool]]) -> None:
    assert run(level, moments) == expected
    assert run(level, moments, late=3) == expected, "a late timer changes nothing"


edges = st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=40).map(
    lambda steps: [(sum(gap for gap, _ in steps[: index + 1]), rising) for index, (_, rising) in enumerate(steps)]
)


@given(st.booleans(), edges)
def test_what_is_settled_alternates_and_was_quiet(level: bool, moments: list[tuple[int, bool]]) -> None:
    settled = run(level, moments)
    now = level
    for time, rising in settled:
        assert rising is not now, "two settled edges of one direction"
        now = rising
        assert not any(time - PERIOD < other < time for other, _ in moments), "it was not quiet"
    last = moments[-1][1] if moments else level
    assert now is last, "the line ends where it came to rest"


@given(st.booleans(), edges)
def test_a_late_timer_changes_nothing(level: bool, moments: list[tuple[int, bool]]) -> None:
    assert run(level, moments, late=10**6) == run(level, moments)
