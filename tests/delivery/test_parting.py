"""What leaves with an event's end is called after the event, by a name that no other event has."""

from __future__ import annotations

import pytest

from edgehost.delivery.ending import Entry
from edgehost.delivery.parting import name_of
from edgehost.event import Event


@pytest.mark.parametrize(
    ("event", "entry", "expected"),
    [
        (Event(id="order-7"), Entry(key="1/order-7"), "order-7"),
        (Event(id="order-7", headers={"id": "order-7"}), Entry(place=0x10000000005), "order-7"),
        (Event(id="9f1c-17"), Entry(place=0x10000000005), "9f1c-17"),
        (Event(id="17"), Entry(place=0x10000000005), "17-10000000005"),
        (Event(id="17", headers={"id": "18"}), Entry(place=0x10000000005), "17-10000000005"),
    ],
)
def test_an_id_of_its_source_stays_and_another_is_made_its_own(event: Event, entry: Entry, expected: str) -> None:
    assert name_of(event, entry) == expected


def test_two_events_of_one_packet_id_that_are_not_on_disk_have_two_names() -> None:
    assert name_of(Event(id="0"), Entry(asked=True)) != name_of(Event(id="0"), Entry(asked=True))
