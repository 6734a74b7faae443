"""What a broker takes at once is learned where it does not say so."""

from __future__ import annotations

import pytest

from edgehost.mqtt.capacity import Capacity


def opened(granted: int = 20, session_present: bool = True) -> Capacity:
    one = Capacity()
    one.opened(granted, session_present)
    return one


@pytest.mark.parametrize("places_taken", range(20))
def test_a_broker_with_places_taken_for_ever_gets_what_it_takes_and_the_connection_stays(places_taken: int) -> None:
    """It closes the connection of who sends one too many."""
    one, room = opened(), 20 - places_taken
    closed = 0
    for _ in range(600):  # seconds
        if one.now > room:
            closed += 1
            one.lost(one.now, soon=True)
            one.opened(20, session_present=True)
        else:
            one.tick(1.0)
    assert closed <= 5 + 10, "a few to find out, and one a minute to see whether it is still so"
    assert room // 2 <= one.now <= room


def test_a_loss_with_nothing_under_way_says_nothing() -> None:
    one = opened()
    before = one.now
    one.lost(0, soon=True)
    one.opened(20, True)
    assert one.now == before == 10


def test_a_broker_that_forgot_the_session_is_taken_at_its_word() -> None:
    one = opened()
    one.lost(20, soon=True)
    one.opened(20, session_present=False)
    assert one.now == 20


def test_it_never_goes_below_one_nor_above_what_is_granted() -> None:
    one = opened(3)
    for _ in range(10):
        one.lost(3, soon=True)
        one.opened(3, True)
    assert one.now == 1
    for _ in range(1000):
        one.tick(1.0)
    assert one.now == 3
