"""The MQTT output: where an answer goes and what goes with it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgehost.errors import TriggerError
from edgehost.event import Event, Origin, Response, failure
from edgehost.outputs.mqtt import MqttOutput, MqttOutputSettings

EVENT = Event(b"", "", "id-7", trigger=Origin("mqtt", "in"), path="plant/1")


async def send(output: MqttOutput, event: Event, response: Response) -> None:
    """Send, and wait where there is something to wait for."""
    wait = output.send(event, response)
    if wait is not None:
        await wait



def settings(**table: Any) -> MqttOutputSettings:
    return msgspec.convert(table, MqttOutputSettings)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "missing required field `topic`"),
        ({"topic": "out/#"}, "no '+' and no '#'"),
        ({"topic": "out/{device}"}, "{device} in 'out/{device}' stands for nothing; use {topic}, {id}"),
        ({"topic": "out/{topic.__class__}"}, "stands for nothing"),
        ({"topic": "out/{id!r}"}, "stands for nothing"),
        ({"topic": "out/{id:>9}"}, "stands for nothing"),
        ({"topic": "out/{"}, "is not a topic with {places}"),
        ({"topic": "out", "qos": 3}, "Invalid enum value 3"),
        ({"topic": "out", "expiry_s": 0}, ">= 1"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_told(table: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(table, MqttOutputSettings)
    assert said in str(caught.value)


pytestmark = [pytest.mark.usefixtures("whole_again")]
real = pytest.mark.needs("mosquitto")


@real
@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("out", "out"),
        ("out/{topic}", "out/plant/1"),
        ("{function}/{trigger}/{output}/{id}", "echo/in/out/id-7"),
        ("", "plant/1"),
        ("{{x}}", "{x}"),
    ],
)
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_an_answer_is_published(mosquitto, session, host, peer, topic, expected, qos):
    broker = mosquitto()
    output, other = MqttOutput(settings(topic=topic, qos=qos), host(await session(broker.url))), peer(broker.url)
    other.subscribe("#", 2)
    await output.start()
    await send(output, EVENT, Response(200, "text/csv", {"unit": "C"}, b"1,2"))
    message = await other.anext()
    assert (message.topic, message.payload, message.qos) == (expected, b"1,2", qos)
    assert (message.properties.ContentType, message.properties.UserProperty) == ("text/csv", [("unit", "C")])
    await output.stop()


@real
async def test_a_failure_carries_its_code(mosquitto, session, host, peer):
    broker = mosquitto()
    output, other = MqttOutput(settings(topic="errors"), host(await session(broker.url))), peer(broker.url)
    other.subscribe("errors")
    await send(output, EVENT, failure("timeout", "too slow"))
    message = await other.anext()
    assert (message.payload, dict(message.properties.UserProperty)) == (b"too slow", {"status": "408", "code": "timeout"})


@real
async def test_a_retained_answer_that_expires_says_so(mosquitto, session, host, peer):
    broker = mosquitto()
    output = MqttOutput(settings(topic="state", retain=True, expiry_s=60, qos=1), host(await session(broker.url)))
    await send(output, EVENT, Response(200, "", {}, b"on"))
    other = peer(broker.url)
    other.subscribe("state", 1)
    message = await other.anext()
    assert message.retain and 0 < message.properties.MessageExpiryInterval <= 60


@real
async def test_without_a_path_the_events_own_topic_is_no_topic(mosquitto, session, host):
    output = MqttOutput(settings(topic=""), host(await session(mosquitto().url)))
    with pytest.raises(TriggerError, match="give it a topic"):
        await send(output, Event(path="/"), Response())


@real
async def test_an_id_that_makes_no_topic_is_an_error(mosquitto, session, host):
    output = MqttOutput(settings(topic="out/{id}", qos=1), host(await session(mosquitto().url)))
    with pytest.raises(TriggerError, match=r"cannot publish to 'out/#'"):
        await send(output, Event(id="#"), Response())


async def test_while_the_broker_is_away_an_answer_waits_and_too_many_fail(session, host, free_port):
    one = await session(f"mqtt://127.0.0.1:{free_port()}", wait=False, max_queued=1)
    output = MqttOutput(settings(topic="out"), host(one))
    first = one.publish("out", b"")
    with pytest.raises(TriggerError, match="1 messages wait already"):
        await send(output, EVENT, Response())
    await one.close(0)
    with pytest.raises(TriggerError):
        await first
