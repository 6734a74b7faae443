"""The MQTT trigger against a real broker, with a function in memory: events, acknowledgements, order, backpressure, answers."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest

from edgehost.errors import TriggerError
from edgehost.event import Event, Response, failure
from edgehost.mqtt import Message
from edgehost.triggers.mqtt import MqttSettings, MqttTrigger


def settings(**table: Any) -> MqttSettings:
    return msgspec.convert({"topics": ["in"], **table}, MqttSettings)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"topics": []}, "length >= 1"),
        ({"topics": ["a/#/b"]}, "topics: 'a/#/b' is not a topic filter: '#' stands alone, as the last level"),
        ({"topics": ["ok", ""]}, "'' is not a topic filter: it is empty"),
        ({"topics": ["a/#", "a/+"]}, "'a/#' covers 'a/+'"),
        ({"topics": ["a", "a"]}, "'a' covers 'a'"),
        ({"topics": ["a"], "group": "g/h+"}, "is not a topic filter"),
        ({"topics": ["a"], "qos": 3}, "Invalid enum value 3"),
        ({"topics": ["a"], "max_in_flight": 0}, ">= 1"),
        ({"topics": ["a"], "broker": "mqtt://"}, "broker: 'mqtt://' is not the URL of a broker"),
        ({"topics": ["a"], "topic": "b"}, "unknown field `topic`"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_told(table: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(table, MqttSettings)
    assert said in str(caught.value)


def test_a_group_makes_shared_subscriptions() -> None:
    assert settings(topics=["a/+", "b"], group="g").filters() == ["$share/g/a/+", "$share/g/b"]


real = pytest.mark.needs("mosquitto")
pytestmark = [pytest.mark.usefixtures("whole_again")]


@pytest.fixture
async def started(mosquitto, session, host):
    """`await started(answer, broker={...}, **settings)`: trigger, host and broker URL of a trigger that listens."""
    triggers = []

    async def start(answer=None, broker=None, config="allow_anonymous true\nmax_queued_messages 0", **table):
        url = mosquitto(config).url
        one = await session(url, **(broker or {}))
        fake = host(one, answer) if answer else host(one)
        trigger = MqttTrigger(settings(**table), fake)
        triggers.append(trigger)
        await trigger.start()
        return trigger, fake, url

    yield start
    for trigger in triggers:
        await asyncio.wait_for(trigger.stop(), 30)


@real
async def test_an_event_says_what_the_contract_promises(started, peer, until):
    _, fake, url = await started(topics=["plant/+/temp"], qos=1)
    before = datetime.now(timezone.utc)
    other = peer(url)
    other.publish("plant/7/temp", b"21.5", 1, ContentType="text/plain", UserProperty=("unit", "C"))
    other.publish("plant/8/temp", b"", 0)
    await until(lambda: len(fake.events) == 2)
    first, second = fake.events
    assert (first.body, first.content_type, first.path, first.url) == (b"21.5", "text/plain", "plant/7/temp", url)
    assert (first.headers, first.trigger, first.id) == ({"unit": "C"}, fake.origin, "1")
    assert before <= first.timestamp <= datetime.now(timezone.utc)
    assert (second.body, second.id, second.headers, second.content_type) == (b"", "0", {}, "")
    assert fake.state == "running"


@real
async def test_a_user_property_id_is_the_events_id(started, peer, until):
    _, fake, url = await started(qos=1)
    peer(url).publish("in", b"{}", 1, UserProperty=("id", "e-17"))
    await until(lambda: fake.events)
    assert fake.events[0].id == "e-17"


@real
async def test_messages_of_3_1_1_get_the_content_type_of_the_manifest(started, peer, until):
    _, fake, url = await started(broker={"version": "3.1.1"}, content_type="application/json")
    peer(url, protocol=4).publish("in", b"{}")
    await until(lambda: fake.events)
    assert (fake.events[0].content_type, fake.events[0].headers) == ("application/json", {})


@real
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_the_answer_goes_to_the_response_topic(started, peer, until, qos):
    def answer(event: Event) -> Response:
        return Response(201, "application/json", {"k": "v"}, b"[" + event.body + b"]")

    _, _, url = await started(answer, qos=2)
    other = peer(url)
    other.subscribe("answers/1", 2)
    other.publish("in", b"7", qos, ResponseTopic="answers/1", CorrelationData=b"\0id")
    reply = await other.anext()
    assert (reply.payload, reply.qos) == (b"[7]", qos)
    assert (reply.properties.ContentType, reply.properties.CorrelationData) == ("application/json", b"\0id")
    assert dict(reply.properties.UserProperty) == {"k": "v", "status": "201"}


@real
async def test_a_failure_is_an_answer_with_its_code(started, peer):
    _, _, url = await started(lambda event: failure("raised", "boom"))
    other = peer(url)
    other.subscribe("answers", 0)
    other.publish("in", b"", ResponseTopic="answers")
    reply = await other.anext()
    assert (reply.payload, dict(reply.properties.UserProperty)) == (b"boom", {"status": "500", "code": "raised"})


@real
async def test_a_response_topic_that_is_none_does_not_stop_the_trigger(started, peer, until, caplog):
    trigger, fake, url = await started(max_in_flight=1)
    # mosquitto refuses a wildcard there, MQTT 5 forbids it (3.3.2.3.5); a careless broker may pass it on.
    trigger._on_message(Message("in", b"1", response_topic="answers/#"))
    await until(lambda: "the answer to a message on 'in' is lost" in caplog.text)
    peer(url).publish("in", b"2")
    await until(lambda: len(fake.events) == 2)


@real
async def test_response_false_keeps_the_answer(started, peer, until):
    _, fake, url = await started(response=False)
    other = peer(url)
    other.subscribe("#")
    other.publish("in", b"", ResponseTopic="answers")
    await until(lambda: fake.events)
    await fake.session.publish("end", b"")
    topics = [(await other.anext()).topic for _ in range(2)]
    assert topics == ["in", "end"]


class Gate:
    """A function whose answers wait until the test lets them go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.code = ""

    async def __call__(self, event: Event) -> Response:
        await self.open.wait()
        return failure(self.code, "") if self.code else Response(200, "", {}, event.body)


@real
@pytest.mark.parametrize("qos", [1, 2])
async def test_the_acknowledgement_follows_the_answer(started, peer, until, qos):
    gate = Gate()
    _, fake, url = await started(gate, qos=qos)
    peer(url).publish("in", b"", qos)
    await until(lambda: fake.events)
    unacknowledged = fake.session._inbox._receiver
    assert len(unacknowledged) == 1
    gate.open.set()
    await until(lambda: len(unacknowledged) == 0)


@real
@pytest.mark.parametrize(("code", "again"), [("raised", False), ("timeout", False), ("stopped", True), ("not_ready", True)])
async def test_only_an_event_that_was_not_handled_comes_again(mosquitto, session, host, peer, until, code, again):
    broker = mosquitto()
    kept: dict[str, Any] = {"client_id": "keeper", "session_expiry_s": 300}
    one = await session(broker.url, **kept)
    trigger = MqttTrigger(settings(qos=1), host(one, lambda event: failure(code, "no")))
    await trigger.start()
    peer(broker.url).publish("in", b"work", 1)
    await until(lambda: trigger._host.events and not trigger._in_flight)
    one.keep_subscriptions()
    await trigger.stop()
    await one.close()
    two = await session(broker.url, **kept)
    fake = host(two)
    after = MqttTrigger(settings(topics=["+"], qos=1), fake)
    await after.start()
    await two.publish("end", b"end", 1)
    await until(lambda: any(event.body == b"end" for event in fake.events))
    assert [event.body for event in fake.events] == ([b"work"] if again else []) + [b"end"]
    await after.stop()


@real
@pytest.mark.parametrize("most", [1, 3])
async def test_no_more_than_max_in_flight_at_once_and_in_order(started, peer, until, most):
    async def answer(event: Event) -> Response:
        await asyncio.sleep(0.001)
        return Response(200, "", {}, event.body)

    _, fake, url = await started(answer, max_in_flight=most, qos=1)
    other = peer(url)
    for number in range(100):
        other.client.publish("in", b"%d" % number, 1)
    await until(lambda: len(fake.events) == 100 and not fake.running)
    assert [event.body for event in fake.events] == [b"%d" % number for number in range(100)]
    assert fake.most_running == most


@real
async def test_a_flood_at_qos_0_drops_and_counts_and_memory_stays_bounded(started, peer, until):
    gate = Gate()
    trigger, fake, url = await started(gate, max_in_flight=2, max_waiting=100)
    other = peer(url)
    for number in range(20_000):
        other.client.publish("in", b"%d" % number)
    other.publish("in", b"last", 1)
    await until(lambda: trigger.dropped and trigger._waiting[-1].payload == b"last")
    assert len(trigger._waiting) == 100 and fake.state == "degraded"
    gate.open.set()
    await until(lambda: not fake.running and not trigger._waiting)
    bodies = [event.body for event in fake.events]
    assert bodies[:2] == [b"0", b"1"] and bodies[-1] == b"last"  # the oldest waiting went
    assert (fake.state, fake.reports[-1][1]) == ("running", f"{trigger.dropped} QoS 0 messages dropped since the start")


@real
async def test_a_broker_that_goes_in_a_flood_is_told_after_it(session, host, mosquitto, peer, until):
    gate = Gate()
    broker = mosquitto("allow_anonymous true")
    one = await session(broker.url)
    fake = host(one, gate)
    trigger = MqttTrigger(settings(max_in_flight=2, max_waiting=10), fake)
    await trigger.start()
    await until(lambda: fake.state == "running")
    other = peer(broker.url)
    for number in range(1000):
        other.client.publish("in", b"%d" % number)
    await until(lambda: trigger.dropped)
    broker.kill()
    await until(lambda: one.state != "connected" and "broker" in fake.reports[-1][1])
    gate.open.set()
    await until(lambda: not fake.running and not trigger._waiting)
    assert fake.state == "degraded" and "broker" in fake.reports[-1][1]
    await trigger.stop()


@real
async def test_drop_newest_keeps_what_waits(started, peer, until):
    gate = Gate()
    trigger, fake, url = await started(gate, max_in_flight=1, max_waiting=3, overflow="drop_newest")
    other = peer(url)
    for number in range(10):
        other.publish("in", b"%d" % number)
    await until(lambda: trigger.dropped == 6)
    gate.open.set()
    await until(lambda: len(fake.events) == 4)
    assert [event.body for event in fake.events] == [b"0", b"1", b"2", b"3"]


@real
async def test_large_waiting_messages_are_bounded_by_their_bytes(started, peer, until):
    gate = Gate()
    trigger, _, url = await started(gate, max_in_flight=1)
    other = peer(url)
    for _ in range(30):
        other.publish("in", b"x" * 1_000_000)
    await until(lambda: trigger.dropped + len(trigger._waiting) == 29)
    assert trigger._waiting_bytes == len(trigger._waiting) * 1_000_000 <= 16 * 1024 * 1024
    gate.open.set()


@real
async def test_qos_1_is_never_dropped(started, peer, until):
    gate = Gate()
    trigger, fake, url = await started(gate, max_in_flight=1, max_waiting=3, qos=1)
    other = peer(url)
    for number in range(50):
        other.client.publish("in", b"%d" % number, 1)
    await until(lambda: len(trigger._waiting) >= 10)
    gate.open.set()
    await until(lambda: len(fake.events) == 50)
    assert trigger.dropped == 0


@real
async def test_stopping_waits_for_what_was_taken(started, peer, until):
    gate = Gate()
    trigger, fake, url = await started(gate, max_in_flight=1, qos=1)
    other = peer(url)
    for number in range(3):
        other.publish("in", b"%d" % number, 1)
    await until(lambda: len(trigger._waiting) == 2)
    stopping = asyncio.ensure_future(trigger.stop())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    gate.open.set()
    await asyncio.wait_for(stopping, 20)
    assert len(fake.events) == 3 and len(fake.session._inbox._receiver) == 0


@real
async def test_when_the_agent_ends_waiting_messages_stay_with_the_broker(mosquitto, session, host, peer, until):
    broker = mosquitto()
    kept: dict[str, Any] = {"client_id": "keeper", "session_expiry_s": 300}
    one, gate = await session(broker.url, **kept), Gate()
    trigger = MqttTrigger(settings(qos=1, max_in_flight=1), host(one, gate))
    await trigger.start()
    other = peer(broker.url)
    for number in range(4):
        other.publish("in", b"%d" % number, 1)
    await until(lambda: len(trigger._waiting) == 3)
    one.keep_subscriptions()
    stopping = asyncio.ensure_future(trigger.stop())
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.wait_for(stopping, 20)
    await one.close()
    two = await session(broker.url, **kept)
    fake = host(two)
    after = MqttTrigger(settings(qos=1), fake)
    await after.start()
    await until(lambda: len(fake.events) == 3)
    assert [event.body for event in fake.events] == [b"1", b"2", b"3"]
    await after.stop()


@real
async def test_a_broker_that_goes_and_comes_shows_in_the_state(mosquitto, session, host, peer, until):
    broker = mosquitto()
    fake = host(await session(broker.url))
    trigger = MqttTrigger(settings(), fake)
    await trigger.start()
    assert fake.reports == [("running", f"in at {broker.url}")]
    broker.kill()
    await until(lambda: fake.state == "degraded")
    assert broker.url in fake.reports[-1][1]
    broker.start()
    await until(lambda: fake.state == "running")
    peer(broker.url).publish("in", b"", 0)
    await until(lambda: fake.events)
    await trigger.stop()


async def test_a_broker_that_is_away_is_no_error(session, host, free_port, until):
    fake = host(await session(f"mqtt://127.0.0.1:{free_port()}", wait=False))
    trigger = MqttTrigger(settings(), fake)
    await trigger.start()
    await until(lambda: fake.state == "degraded")
    assert "nothing listens there" in fake.reports[-1][1]
    await trigger.stop()


async def test_a_refused_subscription_fails_the_start(host, session):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                first, size = await reader.readexactly(2)
                body = await reader.readexactly(size)
                if first == 0x10:
                    writer.write(b"\x20\x03\x00\x00\x00")
                elif first == 0x82:
                    writer.write(b"\x90\x04" + body[:2] + b"\x00\x8f")
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        one = await session(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        trigger = MqttTrigger(settings(), host(one))
        with pytest.raises(TriggerError, match="refused the subscription to 'in'"):
            await trigger.start()
        await trigger.stop()
        await one.close(0)
