"""Pulses counted over windows, and their frequency."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.gpio.pulses import Pulses, Window

SECOND = 10**9


def closed(windows: list[Window]) -> list[tuple[int, int, float, int]]:
    return [(window.end_ns, window.count, round(window.frequency_hz, 6), window.lost) for window in windows]


def test_a_steady_signal_has_its_frequency() -> None:
    pulses, windows = Pulses(SECOND, 0), []
    for number in range(1, 31):
        windows += pulses.pulse(number * SECOND // 10 - 1)
    windows += pulses.tick(3 * SECOND)
    assert closed(windows) == [(SECOND, 10, 10.0, 0), (2 * SECOND, 10, 10.0, 0), (3 * SECOND, 10, 10.0, 0)]


def test_an_empty_window_is_told_too() -> None:
    assert closed(Pulses(10, 0).tick(35)) == [(10, 0, 0.0, 0), (20, 0, 0.0, 0), (30, 0, 0.0, 0)]


def test_a_pulse_at_the_end_belongs_to_the_next() -> None:
    pulses = Pulses(10, 0)
    assert closed(pulses.pulse(9)) == []
    assert closed(pulses.pulse(10)) == [(10, 1, 0.0, 0)]
    assert pulses.tick(20)[0].count == 1


def test_pulses_rarer_than_windows_have_the_time_between_them() -> None:
    pulses = Pulses(SECOND, 0)
    pulses.pulse(SECOND // 2)
    windows = pulses.pulse(5 * SECOND + SECOND // 2) + pulses.tick(6 * SECOND)
    assert closed(windows)[-1] == (6 * SECOND, 1, 0.2, 0)


def test_a_pause_does_not_dilute_the_frequency() -> None:
    pulses = Pulses(SECOND, 0)
    pulses.pulse(0)
    for number in range(5):
        windows = pulses.pulse(3600 * SECOND + number * SECOND // 100)
    windows = pulses.tick(3601 * SECOND)
    assert closed(windows) == [(3601 * SECOND, 5, 100.0, 0)]


def test_what_was_lost_is_told_with_its_window() -> None:
    pulses = Pulses(10, 0)
    pulses.pulse(1)
    pulses.lose(7)
    pulses.pulse(5)
    assert [(window.count, window.lost) for window in pulses.tick(20)] == [(2, 7), (0, 0)]


@pytest.mark.parametrize("times", [[3, 3], [3]])
def test_no_frequency_is_made_up(times: list[int]) -> None:
    pulses = Pulses(10, 0)
    for time in times:
        pulses.pulse(time)
    assert pulses.tick(10)[0].frequency_hz == 0.0


@given(st.lists(st.integers(0, 25), max_size=60), st.integers(1, 40))
def test_each_pulse_is_in_the_one_window_of_its_time(gaps: list[int], window: int) -> None:
    pulses, windows, now, times = Pulses(window, 0), [], 0, []
    for gap in gaps:
        now += gap
        times.append(now)
        windows += pulses.pulse(now)
    windows += pulses.tick(now + window)
    assert [each.end_ns for each in windows] == [window * number for number in range(1, len(windows) + 1)]
    for each in windows:
        assert each.count == sum(each.end_ns - window <= time < each.end_ns for time in times)
    assert sum(each.count for each in windows) == len(times)


def test_the_last_window_is_as_long_as_it_was() -> None:
    pulses = Pulses(10, 0)
    pulses.pulse(12)
    pulses.pulse(14)
    assert [(window.end_ns, window.length_ns, window.count) for window in pulses.end(16)] == [(16, 6, 2)]
    assert Pulses(10, 0).end(4) == [], "nothing in it"
