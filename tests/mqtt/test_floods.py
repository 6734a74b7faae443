"""More messages than the function takes: QoS 1 and 2 are never dropped, so the broker has to keep them; memory stays bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from edgehost.event import Event, Response
from edgehost.intake import HELD_BYTES
from edgehost.triggers.mqtt import MqttSettings, MqttTrigger

pytestmark = [pytest.mark.needs("mosquitto"), pytest.mark.usefixtures("whole_again")]
READ = 65536
UNLIMITED = "allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\nmax_inflight_bytes 0\nmax_queued_bytes 0"


class Gate:
    """A function that answers nothing until it is opened, and then publishes each event, if it has somewhere to."""

    def __init__(self, session: Any = None) -> None:
        self.open = asyncio.Event()
        self.session = session

    async def __call__(self, event: Event) -> Response:
        await self.open.wait()
        if self.session is not None:
            await self.session.publish("out", event.body, 1)
        return Response(200, "", {}, b"")


async def start(session: Any, fake: Any, **table: Any) -> MqttTrigger:
    trigger = MqttTrigger(msgspec.convert({"topics": ["in"], "qos": 1, **table}, MqttSettings), fake)
    await trigger.start()
    return trigger


async def settled(until: Any, trigger: MqttTrigger) -> None:
    """Nothing comes any more."""
    count = -1
    while count != len(trigger._waiting):
        count = len(trigger._waiting)
        await asyncio.sleep(0.2)
    await until(lambda: trigger._paused)


async def test_a_broker_that_sends_without_end_is_not_read(mosquitto, session, host, peer, until):
    url = mosquitto(UNLIMITED).url
    one, gate = await session(url, version="3.1.1"), Gate()
    fake = host(one, gate)
    trigger = await start(one, fake, max_in_flight=2)
    other = peer(url)
    sent = [other.client.publish("in", b"%05d" % number, 1) for number in range(20_000)]
    await until(lambda: sent[-1].is_published())
    await settled(until, trigger)
    assert len(trigger._waiting) <= 1000 + READ // 13
    gate.open.set()
    await until(lambda: len(fake.events) == 20_000)
    assert [event.body for event in fake.events] == [b"%05d" % number for number in range(20_000)]
    await until(lambda: not trigger._in_flight)
    assert not trigger._paused and len(one._inbox._receiver) == 0
    await trigger.stop()


@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_large_messages_are_bounded_by_their_bytes(mosquitto, session, host, peer, until, version):
    url = mosquitto(UNLIMITED).url
    one, gate = await session(url, version=version), Gate()
    fake = host(one, gate)
    trigger = await start(one, fake, max_in_flight=1)
    other = peer(url)
    for number in range(60):
        other.publish("in", b"%05d" % number + bytes(1_000_000), 1)
    await settled(until, trigger)
    assert trigger._owed_bytes == sum(len(message.payload) for message in trigger._waiting) <= HELD_BYTES + 1_000_005
    gate.open.set()
    await until(lambda: len(fake.events) == 60)
    assert [int(event.body[:5]) for event in fake.events] == list(range(60))
    await until(lambda: not trigger._in_flight)
    await trigger.stop()


async def test_answers_that_wait_for_the_broker_are_not_waited_for_in_vain(mosquitto, session, host, peer, until):
    """The function's output is acknowledged on the connection that is not read."""
    url = mosquitto(UNLIMITED).url
    one = await session(url, version="3.1.1")
    gate = Gate(one)
    fake = host(one, gate)
    trigger = await start(one, fake, max_in_flight=2)
    other = peer(url)
    sent = [other.client.publish("in", b"%05d" % number, 1) for number in range(5000)]
    await until(lambda: sent[-1].is_published())
    await settled(until, trigger)
    gate.open.set()
    await until(lambda: len(fake.events) == 5000 and not trigger._in_flight)
    await trigger.stop()


async def test_a_connection_that_is_not_read_for_long_stays(mosquitto, session, host, peer, until):
    url = mosquitto(UNLIMITED).url
    one, gate = await session(url, version="3.1.1", keepalive_s=1), Gate()
    states: list[str] = []
    one.on_state.append(lambda state, reason: states.append(state))
    fake = host(one, gate)
    trigger = await start(one, fake, max_in_flight=1)
    other = peer(url)
    for number in range(20_000):
        other.client.publish("in", b"%05d" % number, 1)
    await settled(until, trigger)
    await asyncio.sleep(4.5)
    assert states == [] and one.state == "connected"
    assert trigger._paused and len(trigger._waiting) <= 1000 + READ // 13, "nor is it read for the answers to pings"
    gate.open.set()
    await until(lambda: len(fake.events) == 20_000 and not trigger._in_flight)
    await trigger.stop()


async def test_one_that_stops_while_it_is_full_lets_the_others_read(mosquitto, session, host, peer, until):
    url = mosquitto(UNLIMITED).url
    one, gate = await session(url, version="3.1.1"), Gate()
    trigger = await start(one, host(one, gate), max_in_flight=1)
    quick = host(one)
    beside = await start(one, quick, topics=["beside"])
    other = peer(url)
    for number in range(2000):
        other.client.publish("in", b"%05d" % number, 1)
    await settled(until, trigger)
    other.publish("beside", b"x", 1)
    stopping = asyncio.ensure_future(trigger.stop())
    await until(lambda: quick.events)
    gate.open.set()
    await asyncio.wait_for(stopping, 20)
    await beside.stop()
