"""The engine's decisions, each a pure function of what is known."""

from __future__ import annotations

import signal
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.backoff import Backoff
from edgehost.engine import output
from edgehost.engine.births import Ended
from edgehost.engine.counters import Counters
from edgehost.engine.credit import CREDIT_MAX, CREDIT_S, credit_for
from edgehost.engine.frames import HEADER, HEADER_SIZE, frame
from edgehost.engine.nursery import _reason
from edgehost.engine.output import Throttle
from edgehost.engine.pool import choose, restart_delay_s

WORD = st.integers(0, 2**32 - 1)


@given(st.binary(max_size=200), WORD, WORD, WORD, st.floats(0, 1e9))
def test_a_frame_says_what_it_was_made_of(payload: bytes, call: int, at: int, size: int, deadline: float) -> None:
    made = frame(7, call, payload, at, size, deadline)
    assert HEADER.unpack_from(made) == (len(payload), call, at, size, deadline, 7)
    assert made[HEADER_SIZE:] == payload


@given(st.floats(0, 1e6))
def test_a_worker_holds_a_millisecond_of_work_and_at_least_one_event(peak_s: float) -> None:
    credit = credit_for(peak_s)
    assert 1 <= credit <= CREDIT_MAX
    assert credit == 1 or credit * peak_s <= CREDIT_S * 1.0001


def test_a_slower_worker_never_holds_more() -> None:
    peaks = [n * 1e-5 for n in range(200)]
    credits = [credit_for(peak) for peak in peaks]
    assert credits == sorted(credits, reverse=True)


@pytest.mark.parametrize(
    ("answered", "deaths", "waits"),
    [(1, 1, False), (1, 7, False), (0, 1, False), (0, 2, True), (0, 3, True)],
)
def test_only_a_worker_that_keeps_dying_unused_waits(answered: int, deaths: int, waits: bool) -> None:
    assert (restart_delay_s(answered, deaths, Backoff(0.1, 30)) > 0) == waits


def test_the_delays_of_a_crash_loop_grow() -> None:
    backoff = Backoff(0.1, 30)
    delays = [restart_delay_s(0, deaths, backoff) for deaths in range(2, 12)]
    assert all(later >= earlier for earlier, later in pairwise(delays) if earlier < 15)
    assert 15 <= delays[-1] <= 30


def worker(held: int, credit: int) -> Any:
    return SimpleNamespace(pending=range(held), credit=credit)


@pytest.mark.parametrize(
    ("workers", "chosen"),
    [
        ([], None),
        ([(0, 0)], None),
        ([(4, 4), (2, 2)], None),
        ([(0, 1)], 0),
        ([(3, 64), (1, 64), (2, 64)], 1),
        ([(0, 0), (5, 64)], 1),
        ([(1, 1), (63, 64)], 1),
        ([(2, 4), (2, 4)], 0),
    ],
)
def test_the_worker_with_the_fewest_events_and_room_is_chosen(workers: list[tuple[int, int]], chosen: int | None) -> None:
    made = [worker(*each) for each in workers]
    assert choose(made) is (None if chosen is None else made[chosen])


@given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 64)), max_size=8))
def test_no_worker_is_given_more_than_its_credit(workers: list[tuple[int, int]]) -> None:
    made = [worker(*each) for each in workers]
    best = choose(made)
    room = [each for each in made if len(each.pending) < each.credit]
    assert (best is None) == (not room)
    if best is not None:
        assert best in room
        assert len(best.pending) == min(len(each.pending) for each in room)


@pytest.mark.parametrize(
    ("status", "left", "told"),
    [
        (0, 0, "exit status 0"),
        (3 << 8, 0, "exit status 3"),
        (signal.SIGSEGV, 0, "killed by SIGSEGV"),
        (signal.SIGKILL, 0, "memory killer"),
        (signal.SIGXCPU, 0, "cpu_s is spent"),
        (1 << 8, 3, "3 processes it left were ended"),
        (signal.SIGRTMIN + 3, 0, "killed by signal"),
    ],
)
def test_the_end_of_a_worker_is_told_in_words(status: int, left: int, told: str) -> None:
    assert told in _reason(Ended(1, int(status), left))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_quantiles_are_values_that_were_measured(latencies: list[float]) -> None:
    counters = Counters()
    counters.latencies.extend(latencies)
    median, most = counters.quantile_ms(0.5), counters.quantile_ms(1.0)
    assert most == max(latencies) * 1e3
    assert median in [latency * 1e3 for latency in latencies]
    assert median <= counters.quantile_ms(0.99) <= most


def test_no_latencies_are_zero() -> None:
    assert Counters().quantile_ms(0.99) == 0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(output, "monotonic", clock)
    return clock


def test_a_burst_passes_and_what_is_above_it_is_dropped_and_counted(clock: Clock) -> None:
    throttle = Throttle(rate=10, burst=100)
    assert [throttle.allow() for _ in range(130)] == [True] * 100 + [False] * 30
    assert throttle.take_dropped() == 30
    assert throttle.take_dropped() == 0
    clock.now += 1
    assert [throttle.allow() for _ in range(12)] == [True] * 10 + [False] * 2


def test_a_quiet_time_gives_a_burst_and_no_more(clock: Clock) -> None:
    throttle = Throttle(rate=10, burst=100)
    clock.now += 1e6
    assert sum(throttle.allow() for _ in range(1000)) == 100
