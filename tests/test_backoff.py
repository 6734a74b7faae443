"""The one back-off: doubles, is bounded, has jitter, and begins again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgehost.backoff import Backoff


@given(st.floats(0.001, 10), st.floats(10, 1000), st.integers(1, 200))
def test_every_delay_lies_in_the_upper_half_of_its_doubled_ceiling(first_s: float, most_s: float, tries: int) -> None:
    backoff = Backoff(first_s, most_s)
    for failures in range(tries):
        ceiling = min(most_s, first_s * 2.0 ** min(failures, 60))
        assert ceiling / 2 <= backoff.next() <= ceiling
    assert backoff.failures == tries


def test_it_never_overflows_however_long_it_fails() -> None:
    backoff = Backoff(0.1, 30)
    backoff.failures = 10**6
    assert 15 <= backoff.next() <= 30


def test_two_devices_do_not_wait_alike() -> None:
    assert len({Backoff(1, 30).next() for _ in range(50)}) > 40


def test_a_reset_begins_again() -> None:
    backoff = Backoff(1, 1000)
    for _ in range(8):
        backoff.next()
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next() <= 1
