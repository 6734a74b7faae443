"""The tables of both directions of a PUBLISH exchange, row by row, without a broker."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.errors import TriggerError
from edgehost.mqtt.exchanges import Outgoing, PacketIds, Receiver, Sender
from edgehost.mqtt.packets import NO_PROPERTIES, PUBACK, PUBCOMP, PUBREC, PUBREL, Message, encode_acknowledgement, encode_text


def message(qos: int, payload: bytes = b"x") -> Outgoing:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return Outgoing(encode_text("t"), payload, NO_PROPERTIES, qos, False, future)


def sender(window: int = 10, most: int = 100) -> Sender:
    one = Sender(PacketIds(), most)
    one.window = window
    return one


@given(st.lists(st.integers(0, 20), max_size=200))
def test_no_packet_id_is_ever_given_twice_at_once(steps: list[int]) -> None:
    ids, used = PacketIds(), []
    ids._last = PacketIds.MOST - 5  # near the end, where they begin anew
    for step in steps:
        if step < 14 or not used:
            packet_id = ids.take()
            assert packet_id not in used and 1 <= packet_id <= PacketIds.MOST
            used.append(packet_id)
        else:
            ids.free(used.pop(step % len(used)))


def test_when_all_packet_ids_are_used_the_next_is_refused() -> None:
    ids = PacketIds()
    for _ in range(PacketIds.MOST):
        ids.take()
    with pytest.raises(RuntimeError):
        ids.take()
    ids.free(7)
    assert ids.take() == 7


async def test_qos_0_is_done_when_it_is_sent() -> None:
    out, one = sender(), message(0)
    out.waiting.append(one)
    assert out.next() is not None
    assert one.future.done() and not out.in_flight


async def test_qos_1_is_done_with_its_puback() -> None:
    out, one = sender(), message(1)
    out.begin(one)
    assert not one.future.done()
    answer, done = out.acknowledged(PUBACK, one.packet_id, 0)
    assert (answer, done) == (b"", one) and not out.in_flight


async def test_qos_2_is_done_with_its_pubcomp() -> None:
    out, one = sender(), message(2)
    out.begin(one)
    assert out.acknowledged(PUBREC, one.packet_id, 0) == (encode_acknowledgement(PUBREL, one.packet_id), None)
    assert out.acknowledged(PUBACK, one.packet_id, 0) == (b"", None)  # out of turn
    assert out.acknowledged(PUBCOMP, one.packet_id, 0) == (b"", one)


async def test_a_refused_pubrec_ends_the_exchange() -> None:
    out, one = sender(), message(2)
    out.begin(one)
    assert out.acknowledged(PUBREC, one.packet_id, 0x97) == (b"", one)
    assert not out.in_flight


async def test_the_window_of_the_broker_is_respected_and_order_kept() -> None:
    out = sender(window=2)
    for number in range(5):
        out.waiting.append(message(1, b"%d" % number))
    sent = []
    while (packet := out.next()) is not None:
        sent.append(packet[-1:])
    assert sent == [b"0", b"1"]
    first = next(iter(out.in_flight))
    out.acknowledged(PUBACK, first, 0)
    packet = out.next()
    assert packet is not None and packet[-1:] == b"2" and out.next() is None


async def test_a_connection_to_the_same_session_repeats_what_is_unfinished() -> None:
    out, one, two, three = sender(), message(1, b"1"), message(2, b"2"), message(2, b"3")
    first = [out.begin(each) for each in (one, two, three)]
    out.acknowledged(PUBREC, two.packet_id, 0)
    again = [*out.resume(), *iter(out.next, None)]
    assert again[0] == encode_acknowledgement(PUBREL, two.packet_id), "the broker has that, and no room before it is told"
    assert again[1] == bytes((first[0][0] | 8,)) + first[0][1:]
    assert again[2] == bytes((first[2][0] | 8,)) + first[2][1:]


async def test_a_lost_session_begins_anew_in_order_with_what_the_broker_had_not_taken() -> None:
    out, one, two, three = sender(window=3), message(1, b"1"), message(2, b"2"), message(1, b"3")
    for each in (one, two, three):
        out.begin(each)
    out.acknowledged(PUBREC, two.packet_id, 0)
    out.waiting.append(message(1, b"4"))
    out.restart()
    assert two.future.done() and not out.in_flight
    packets = [out.next(), out.next(), out.next()]
    assert [packet[-1:] for packet in packets if packet] == [b"1", b"3", b"4"]
    assert all(packet and not packet[0] & 8 for packet in packets)


async def test_failing_ends_everything_that_waits() -> None:
    out, one, two = sender(), message(1), message(0)
    out.begin(one)
    out.waiting.append(two)
    out.fail(TriggerError("closed"))
    for each in (one, two):
        with pytest.raises(TriggerError):
            await each.future


async def test_a_caller_that_gave_up_is_no_trouble() -> None:
    out, one = sender(), message(1)
    out.begin(one)
    one.future.cancel()
    _, done = out.acknowledged(PUBACK, one.packet_id, 0)
    assert done is one
    one.settle()


def incoming(qos: int, packet_id: int = 1, duplicate: bool = False) -> Message:
    return Message("t", b"x", qos, False, duplicate, packet_id)


@pytest.mark.parametrize(("qos", "kind"), [(1, PUBACK), (2, PUBREC)])
def test_the_acknowledgement_follows_the_answer(qos: int, kind: int) -> None:
    inbox, one = Receiver(), incoming(qos)
    assert inbox.accept(one) == (True, b"")
    assert inbox.answered(one, connected=True) == encode_acknowledgement(kind, 1)
    assert inbox.answered(one, connected=True) == b""  # once


def test_qos_2_ends_with_pubrel() -> None:
    inbox, one = Receiver(), incoming(2)
    inbox.accept(one)
    inbox.answered(one, connected=True)
    assert len(inbox) == 1
    assert inbox.released(1) == encode_acknowledgement(PUBCOMP, 1)
    assert len(inbox) == 0


@pytest.mark.parametrize("qos", [1, 2])
def test_a_repeat_of_what_is_being_worked_on_is_not_handed_over_again(qos: int) -> None:
    inbox, one = Receiver(), incoming(qos)
    inbox.accept(one)
    assert inbox.accept(incoming(qos, duplicate=True)) == (False, b"")
    assert inbox.answered(one, connected=True) != b""


@pytest.mark.parametrize(("qos", "kind"), [(1, PUBACK), (2, PUBREC)])
def test_what_was_answered_while_away_is_acknowledged_when_it_comes_again(qos: int, kind: int) -> None:
    inbox, one = Receiver(), incoming(qos)
    inbox.accept(one)
    assert inbox.answered(one, connected=False) == b""
    assert inbox.accept(incoming(qos, duplicate=True)) == (False, encode_acknowledgement(kind, 1))


def test_a_new_message_under_an_old_id_is_handed_over() -> None:
    inbox, old, new = Receiver(), incoming(1), incoming(1)
    inbox.accept(old)
    assert inbox.accept(new) == (True, b"")
    assert inbox.answered(old, connected=True) == b""
    assert inbox.answered(new, connected=True) == encode_acknowledgement(PUBACK, 1)


def test_what_is_given_back_is_handed_over_when_it_comes_again() -> None:
    inbox, one = Receiver(), incoming(1)
    inbox.accept(one)
    inbox.given_back(one)
    assert inbox.answered(one, connected=True) == b""
    assert inbox.accept(incoming(1, duplicate=True)) == (True, b"")


def test_a_message_for_two_is_acknowledged_when_both_have_answered() -> None:
    inbox, one = Receiver(), incoming(1)
    inbox.accept(one)
    inbox.share(one, 2)
    assert inbox.answered(one, connected=True) == b""
    assert inbox.answered(one, connected=True) == encode_acknowledgement(PUBACK, 1)


def test_a_lost_session_forgets_every_id() -> None:
    inbox, one = Receiver(), incoming(1)
    inbox.accept(one)
    inbox.restart()
    assert inbox.answered(one, connected=True) == b""


@pytest.mark.parametrize(("qos", "kind"), [(1, PUBACK), (2, PUBREC)])
def test_acknowledgements_leave_in_the_order_of_arrival(qos: int, kind: int) -> None:
    inbox, messages = Receiver(), [incoming(qos, packet_id) for packet_id in (7, 3, 9)]
    for message in messages:
        inbox.accept(message)
    assert inbox.answered(messages[2], connected=True) == b""
    assert inbox.answered(messages[1], connected=True) == b""
    assert inbox.answered(messages[0], connected=True) == b"".join(encode_acknowledgement(kind, each) for each in (7, 3, 9))


def test_what_is_given_back_holds_nobody_up() -> None:
    inbox, one, two = Receiver(), incoming(1, 1), incoming(1, 2)
    inbox.accept(one)
    inbox.accept(two)
    assert inbox.answered(two, connected=True) == b""
    assert inbox.given_back(one) == encode_acknowledgement(PUBACK, 2)
    assert len(inbox) == 0


def test_on_a_new_connection_the_line_is_the_brokers_new_order() -> None:
    inbox, one, two = Receiver(), incoming(1, 1), incoming(1, 2)
    inbox.accept(one)
    inbox.accept(two)
    assert inbox.answered(two, connected=False) == b""
    inbox.resume()
    assert inbox.answered(one, connected=True) == b""  # not sent again yet
    assert inbox.accept(incoming(1, 1, duplicate=True)) == (False, encode_acknowledgement(PUBACK, 1))
    assert inbox.accept(incoming(1, 2, duplicate=True)) == (False, encode_acknowledgement(PUBACK, 2))
    assert len(inbox) == 0
