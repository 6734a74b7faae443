"""The pure parts of the floods: packets are what they should be, and an answer is read however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.benches import flood

ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n" + b'{"id": "123"}'[:12]


def test_a_whole_answer_gives_its_status_and_what_follows() -> None:
    assert flood.answer(ANSWER + b"HTTP/1.1 5") == (202, b"HTTP/1.1 5")
    assert flood.answer(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n") == (503, b"")


@given(st.integers(1, len(ANSWER) - 1))
def test_an_answer_that_is_not_whole_is_left_as_it_is(cut: int) -> None:
    assert flood.answer(ANSWER[:cut]) == (0, ANSWER[:cut])


def test_the_end_of_a_connection_is_no_answer() -> None:
    with pytest.raises(RuntimeError, match="closed"):
        flood.answer(b"")


def test_a_message_of_qos_1_has_an_id_and_one_of_qos_0_has_none() -> None:
    assert flood.publish("t", 0, 7) == b"\x30\x67\x00\x01t" + flood.BODY
    assert flood.publish("t", 1, 7) == b"\x32\x69\x00\x01t\x00\x07" + flood.BODY
