"""QoS 2 exchanges that outlive a process: the rows of the table with a slip, first alone, then with a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgehost.errors import AwayError
from edgehost.mqtt.exchanges import Outgoing, PacketIds, Sender
from edgehost.mqtt.packets import NO_PROPERTIES, PUBCOMP, PUBREC, encode_acknowledgement, encode_text
from edgehost.mqtt.packets import PUBREL as RELEASE
from edgehost.parcel import NUMBERS


@dataclass
class Slip:
    """An edgehost.parcel.Slip whose writing down is the test's."""

    number: int
    begun: bool = False
    released: bool = False
    thens: list[Callable[[], None]] = field(default_factory=list)
    held: bool = False

    def release(self, then: Callable[[], None]) -> None:
        self.released = True
        if self.held:
            self.thens.append(then)
        else:
            then()


def sender() -> Sender:
    one = Sender(PacketIds(), 100)
    one.window = 10
    return one


def message(slip: Slip, body: bytes = b"x") -> Outgoing:
    return Outgoing(encode_text("t"), body, NO_PROPERTIES, 2, False, asyncio.get_running_loop().create_future(), slip)


def release(number: int) -> bytes:
    return encode_acknowledgement(RELEASE, number)


def test_no_packet_id_of_a_session_is_ever_a_number() -> None:
    ids = PacketIds(PacketIds.MOST - 2)
    assert all(ids.take() not in NUMBERS for _ in range(PacketIds.MOST))


async def test_nothing_new_takes_the_place_of_an_exchange_that_an_earlier_run_left_open() -> None:
    out = sender()
    out.window, out.owed = 3, 2
    new = [Outgoing(encode_text("t"), b"new", NO_PROPERTIES, 1, False, asyncio.get_running_loop().create_future())] * 3
    out.waiting.extend(new)
    assert out.next() is not None and out.next() is None, "the broker counts three under way"
    begun = [message(Slip(40_000, begun=True)), message(Slip(40_001, begun=True, released=True))]
    out.waiting.extend(begun)
    assert [out.next() is not None for _ in range(3)] == [True, True, False]
    assert set(out.in_flight) >= {40_000, 40_001} and not out.owed
    assert out.acknowledged(PUBCOMP, 40_001, 0) == (b"", begun[1])
    assert out.next() is not None, "there is room again"


async def test_its_number_is_the_packet_id_and_only_a_repetition_says_so() -> None:
    out = sender()
    fresh, again = message(Slip(40_000)), message(Slip(40_001, begun=True))
    first, second = out.begin(fresh), out.begin(again)
    assert first[5:7] == (40_000).to_bytes(2, "big") and not first[0] & 8
    assert second[5:7] == (40_001).to_bytes(2, "big") and second[0] & 8


async def test_nothing_is_released_before_that_is_written_down() -> None:
    out, one = sender(), message(Slip(40_000))
    out.begin(one)
    assert out.taken(40_000) is one
    assert out.taken(40_000) is None
    assert out.acknowledged(PUBREC, 40_000, 0) == (b"", None)  # once more, meanwhile
    assert out.acknowledged(PUBCOMP, 40_000, 0) == (b"", None)  # out of turn
    assert list(out.resume()) == []
    assert out.release(one) == release(40_000)
    assert list(out.resume()) == [release(40_000)]
    assert out.acknowledged(PUBREC, 40_000, 0) == (release(40_000), None)
    assert out.acknowledged(PUBCOMP, 40_000, 0) == (b"", one)
    assert out.release(one) == b""


async def test_a_released_one_is_only_released() -> None:
    out, one = sender(), message(Slip(40_000, begun=True, released=True))
    assert out.begin(one) == release(40_000)
    assert out.acknowledged(PUBCOMP, 40_000, 0) == (b"", one)


async def test_a_lost_session_ends_what_was_taken_and_begins_the_rest_anew() -> None:
    out = sender()
    messages = [message(Slip(40_000 + number, begun=True), b"%d" % number) for number in range(3)]
    for one in messages:
        out.begin(one)
    out.taken(40_000)
    out.taken(40_001)
    out.release(messages[1])
    out.restart()
    assert [one.future.done() for one in messages] == [True, True, False]
    packet = out.next()
    assert packet is not None and not packet[0] & 8 and packet[5:7] == (40_002).to_bytes(2, "big")
    assert out.release(messages[0]) == b""


async def test_before_the_first_connection_a_lost_session_means_the_same() -> None:
    out, done, begun = sender(), message(Slip(40_000, begun=True, released=True)), message(Slip(40_001, begun=True))
    out.waiting.extend((done, begun))
    out.restart()
    packet = out.next()
    assert done.future.done() and packet is not None and not packet[0] & 8 and out.next() is None


async def test_a_number_refused_is_over() -> None:
    out, one = sender(), message(Slip(40_000))
    out.begin(one)
    assert out.acknowledged(PUBREC, 40_000, 0x87) == (b"", one)
    assert not out.in_flight


@pytest.mark.parametrize("begun", [False, True])
async def test_what_is_recalled_comes_back_but_for_what_was_taken(begun: bool) -> None:
    out = sender()
    out.window = 3
    messages = [message(Slip(40_000 + number)) for number in range(5)]
    out.waiting.extend(messages)
    while out.next() is not None:
        pass
    out.taken(40_000)
    out.taken(40_001)
    out.release(messages[1])
    out.recall({one.future for one in messages[:4]}, begun, AwayError("away"))
    assert [one.future.done() for one in messages] == [False, False, begun, True, False]
    assert list(out.waiting) == messages[4:] and list(out.in_flight) == [40_000, 40_001, 40_002][: 2 + (not begun)]
    for one in messages:
        if one.future.done():
            assert isinstance(one.future.exception(), AwayError)


PERSISTENT: dict[str, Any] = {"session_expiry_s": 300, "client_id": "one"}


@pytest.mark.needs("mosquitto")
@pytest.mark.usefixtures("whole_again")
@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("taken", [False, True])
async def test_another_session_of_the_same_client_goes_on(mosquitto, session, peer, until, version, taken):
    broker = mosquitto()
    other = peer(broker.url)
    other.subscribe("t", 2)
    first = await session(broker.url, version=version, **PERSISTENT)
    slip = Slip(50_000, held=True)
    wait = first.publish("t", b"one", 2, slip=slip)
    await until(lambda: slip.thens)
    await asyncio.sleep(0.05)
    assert other.received.empty()  # mosquitto hands on what was released
    first._connection.give_up()  # as if the process had died: no DISCONNECT, and nothing more is heard
    first._task.cancel()
    second = await session(broker.url, version=version, **PERSISTENT)
    again = Slip(50_000, begun=True, released=taken)
    await asyncio.wait_for(second.publish("t", b"one", 2, slip=again), 10)
    message = await other.anext()
    assert message.payload == b"one"
    await asyncio.wait_for(second.publish("t", b"two", 2, slip=Slip(50_001)), 10)
    message = await other.anext()
    assert message.payload == b"two" and other.received.empty()
    wait.cancel()


@pytest.mark.needs("mosquitto")
@pytest.mark.usefixtures("whole_again")
async def test_a_broker_that_has_forgotten_gets_what_it_had_not_taken_and_nothing_else(mosquitto, session, peer):
    broker = mosquitto()
    other = peer(broker.url)
    other.subscribe("t", 2)
    one = await session(broker.url, **PERSISTENT)
    waits = [
        one.publish("t", b"released", 2, slip=Slip(50_000, begun=True, released=True)),
        one.publish("t", b"begun", 2, slip=Slip(50_001, begun=True)),
    ]
    await asyncio.wait_for(asyncio.gather(*waits), 10)
    message = await other.anext()
    assert message.payload == b"begun" and other.received.empty()


@pytest.mark.needs("mosquitto")
@pytest.mark.usefixtures("whole_again")
async def test_exchanges_that_nobody_remembers_give_their_places_back(mosquitto, session, peer, until):
    """A client that died left a whole window of them open; mosquitto takes no other of QoS 2 from its successor."""
    broker = mosquitto()
    other = peer(broker.url)
    other.subscribe("new", 1)
    first = await session(broker.url, **PERSISTENT)
    slips = [Slip(50_000 + number, held=True) for number in range(20)]
    waits = [first.publish("old", b"old", 2, slip=slip) for slip in slips]
    await until(lambda: all(slip.thens for slip in slips))
    first._connection.give_up()
    first._task.cancel()
    second = await session(broker.url, **PERSISTENT)

    states: list[str] = []
    second.on_state.append(lambda state, reason: states.append(state))
    with pytest.raises(AwayError, match="a quota is used up"):  # a lane keeps such a message and sends it again
        await asyncio.wait_for(second.publish("new", b"refused", 2, slip=Slip(51_000)), 10)
    many = [second.publish("new", b"%d" % number, 2, slip=Slip(51_001 + number)) for number in range(200)]
    await asyncio.wait_for(asyncio.gather(*many), 30)
    assert states == [], "the connection stays"
    assert [(await other.anext()).payload for _ in range(200)] == [b"%d" % number for number in range(200)]
    for wait in waits:
        wait.cancel()
