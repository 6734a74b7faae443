"""Topic filters: what is one, and what it matches. paho-mqtt's own matching is the oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from edgehost.mqtt.topics import Routes, filter_problem, matches, topic_problem

LEVEL = st.sampled_from(["", "a", "b", "$SYS", "temp"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTER = st.builds(
    lambda levels, tail: "/".join([*levels, *tail]),
    st.lists(LEVEL | st.just("+"), max_size=4),
    st.sampled_from([[], ["#"], ["+"]]),
).filter(bool)


@pytest.mark.parametrize("text", ["a", "/", "a/+/b", "+", "#", "a/#", "+/+/#", "/+", "$SYS/#", "$share/g/a/+", "ä/☃", "a b"])
def test_a_filter_of_the_standard_is_one(text: str) -> None:
    assert filter_problem(text) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("a/#/b", "'#' stands alone, as the last level"),
        ("a#", "'#' stands alone"),
        ("#/", "'#' stands alone"),
        ("a+/b", "'+' stands alone"),
        ("a/+b", "'+' stands alone"),
        ("a\0", "NUL"),
        ("\ud800", "UTF-8"),
        ("x" * 65536, "65535 bytes"),
        ("$share/g", "$share/GROUP/FILTER"),
        ("$share//a", "$share/GROUP/FILTER"),
        ("$share/g+/a", "$share/GROUP/FILTER"),
        ("$share/g/a#", "'#' stands alone"),
    ],
)
def test_what_is_no_filter_is_told_why(text: str, said: str) -> None:
    assert said in filter_problem(text)


@pytest.mark.parametrize(("topic", "said"), [("a/+", "'+'"), ("#", "'#'"), ("", "empty"), ("a\0b", "NUL")])
def test_nobody_can_publish_to_a_filter(topic: str, said: str) -> None:
    assert said in topic_problem(topic)


@pytest.mark.parametrize(
    ("text", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("a/#", "a", True),
        ("a/#", "ab", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("$share/g/a/+", "a/b", True),
        ("/+", "/a", True),
        ("+/+", "/a", True),
        ("+", "/a", False),
    ],
)
def test_matching_follows_the_standard(text: str, topic: str, expected: bool) -> None:
    assert matches(text, topic) is expected


@given(text=FILTER, topic=TOPIC)
def test_matching_agrees_with_paho(text: str, topic: str) -> None:
    assert filter_problem(text) == ""
    assert matches(text, topic) == topic_matches_sub(text, topic)


@given(filters=st.lists(FILTER, max_size=6), removed=st.sets(st.integers(0, 5)), topics=st.lists(TOPIC, min_size=1, max_size=4))
def test_routes_find_exactly_the_filters_that_match(filters: list[str], removed: set[int], topics: list[str]) -> None:
    routes: Routes[int] = Routes()
    for number, text in enumerate(filters):
        routes.add(text, number)
        routes.match(topics[0])
    for number in removed & set(range(len(filters))):
        routes.remove(filters[number], number)
    left = {number: text for number, text in enumerate(filters) if number not in removed}
    for topic in (*topics, *topics):  # the second time from memory
        assert sorted(routes.match(topic)) == [number for number, text in left.items() if matches(text, topic)]


def test_removing_what_was_never_added_is_refused() -> None:
    routes: Routes[int] = Routes()
    for text in ("a", "a/+"):
        with pytest.raises(ValueError):
            routes.remove(text, 1)


def test_a_new_topic_for_every_message_does_not_fill_memory() -> None:
    routes: Routes[int] = Routes()
    routes.add("#", 1)
    for number in range(20_000):
        routes.match(f"t/{number}")
    assert len(routes._remembered) <= 4096
