"""A session with a real mosquitto: delivery, acknowledgement, reconnecting, limits."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from edgehost.config import Broker
from edgehost.errors import TriggerError
from edgehost.mqtt import Message, Session, Will

pytestmark = [pytest.mark.needs("mosquitto"), pytest.mark.usefixtures("whole_again")]

VERSIONS = pytest.mark.parametrize("version", ["5", "3.1.1"])


@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_goes_out_and_comes_back(mosquitto, session, inbox, until, version, qos):
    one = await session(mosquitto().url, version=version)
    got = inbox(one)
    await one.subscribe("t/+", qos, got)
    await one.publish("t/1", b"body", qos, content_type="text/plain", headers={"unit": "C"}, correlation_data=b"\0\xff")
    await until(lambda: got.messages)
    message = got.messages[0]
    assert (message.topic, message.payload, message.qos) == ("t/1", b"body", qos)
    if version == "5":
        assert (message.content_type, message.user_properties) == ("text/plain", {"unit": "C"})
        assert message.correlation_data == b"\0\xff"


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_is_what_another_client_sent(mosquitto, session, inbox, until, peer, qos):
    broker = mosquitto()
    one, other = await session(broker.url), peer(broker.url)
    got = inbox(one)
    await one.subscribe("sensors/#", 2, got)
    other.subscribe("back", 2)
    other.publish("sensors/a/b", b"\0\1", qos, ContentType="x/y", ResponseTopic="back", CorrelationData=b"7")
    await until(lambda: got.messages)
    found = got.messages[0]
    assert (found.topic, found.payload, found.qos) == ("sensors/a/b", b"\0\1", qos)
    assert (found.content_type, found.response_topic, found.correlation_data) == ("x/y", "back", b"7")
    await one.publish("back", b"answer", qos, headers={"k": "v"})
    answer = await other.anext()
    assert (answer.payload, answer.qos, answer.properties.UserProperty) == (b"answer", qos, [("k", "v")])


@pytest.mark.parametrize("size", [0, 100, 70_000, 3_000_000])
async def test_messages_of_every_size_arrive_whole(mosquitto, session, inbox, until, size):
    one = await session(mosquitto().url)
    got = inbox(one)
    await one.subscribe("t", 1, got)
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    await one.publish("t", payload, 1)
    await one.publish("t", b"after", 1)
    await until(lambda: len(got.messages) == 2)
    assert got.payloads == [payload, b"after"]


@VERSIONS
async def test_wildcards_bring_what_matches_and_nothing_else(mosquitto, session, inbox, until, version):
    one = await session(mosquitto().url, version=version)
    plus, hash_, exact, end = inbox(one), inbox(one), inbox(one), inbox(one)
    for text, handler in (("a/+", plus), ("b/#", hash_), ("c", exact), ("end", end)):
        await one.subscribe(text, 0, handler)
    for topic in ("a/1", "a/1/2", "a", "b", "b/1/2", "c", "c/1", "d", "end"):
        one.publish(topic, topic.encode())
    await until(lambda: end.messages)
    assert (plus.payloads, hash_.payloads, exact.payloads) == ([b"a/1"], [b"b", b"b/1/2"], [b"c"])


async def test_overlapping_filters_each_get_every_message_once(mosquitto, session, inbox, until):
    one = await session(mosquitto().url)
    wide, narrow, end = inbox(one), inbox(one), inbox(one)
    await one.subscribe("a/#", 1, wide)
    await one.subscribe("a/b", 1, narrow)
    await one.subscribe("end", 1, end)
    for number in range(20):
        one.publish("a/b", b"%d" % number, 1)
    one.publish("end", b"", 1)
    await until(lambda: end.messages)
    expected = [b"%d" % number for number in range(20)]
    assert (wide.payloads, narrow.payloads) == (expected, expected)


async def test_two_users_of_one_filter_share_it_until_the_last_leaves(mosquitto, session, inbox, until):
    one = await session(mosquitto().url)
    first, second, end = inbox(one), inbox(one), inbox(one)
    subscriptions = [await one.subscribe("t", 1, handler) for handler in (first, second)]
    await one.subscribe("end", 1, end)

    async def say(payload: bytes) -> None:
        end.messages.clear()
        await one.publish("t", payload, 1)
        await one.publish("end", b"", 1)
        await until(lambda: end.messages)

    await say(b"both")
    await subscriptions[0].close()
    await subscriptions[0].close()
    await say(b"one")
    await subscriptions[1].close()
    await say(b"none")
    assert (first.payloads, second.payloads) == ([b"both"], [b"both", b"one"])


async def test_a_shared_subscription_gives_each_message_to_one_member(mosquitto, session, inbox, until):
    broker = mosquitto()
    one, two = await session(broker.url), await session(broker.url)
    boxes = [inbox(one), inbox(two)]
    for member, box in zip((one, two), boxes, strict=True):
        await member.subscribe("$share/group/work/#", 1, box)
    for number in range(40):
        await one.publish("work/x", b"%d" % number, 1)
    await until(lambda: sum(len(box.messages) for box in boxes) >= 40)
    assert sorted(int(payload) for box in boxes for payload in box.payloads) == list(range(40))
    assert all(box.messages for box in boxes)


async def test_a_retained_message_comes_to_who_subscribes_later(mosquitto, session, inbox, until):
    one = await session(mosquitto().url)
    await one.publish("state", b"on", 1, retain=True)
    got = inbox(one)
    await one.subscribe("state", 1, got)
    await until(lambda: got.messages)
    assert got.messages[0].retain and got.payloads == [b"on"]


@VERSIONS
async def test_without_an_acknowledgement_a_message_comes_again_on_the_next_connection(mosquitto, session, inbox, until, version):
    broker = mosquitto()
    settings: dict[str, Any] = {"client_id": "keeper", "session_expiry_s": 300, "version": version}
    first = await session(broker.url, **settings)
    held = inbox(first, hold=True)
    await first.subscribe("t", 1, held)
    await first.publish("t", b"work", 1)
    await until(lambda: held.messages)
    await first.close(0.1)
    second = await session(broker.url, **settings)
    got = inbox(second)
    await second.subscribe("t", 1, got)
    await until(lambda: got.messages)
    assert got.payloads == [b"work"]
    await second.close()
    third = await session(broker.url, **settings)
    nothing, end = inbox(third), inbox(third)
    await third.subscribe("t", 1, nothing)
    await third.subscribe("end", 1, end)
    await third.publish("end", b"", 1)
    await until(lambda: end.messages)
    assert nothing.messages == []


async def test_a_persistent_session_brings_what_came_while_we_were_away(mosquitto, session, inbox, until, peer):
    broker = mosquitto()
    settings: dict[str, Any] = {"client_id": "keeper", "session_expiry_s": 300}
    first = await session(broker.url, **settings)
    await first.subscribe("t", 1, inbox(first))
    first.keep_subscriptions()
    await first.close()
    other = peer(broker.url)
    for number in range(10):
        other.publish("t", b"%d" % number, 1)
    second = await session(broker.url, **settings)
    await asyncio.sleep(0.2)  # they arrive before anybody has subscribed, and wait
    got = inbox(second)
    await second.subscribe("t", 1, got)
    await until(lambda: len(got.messages) == 10)
    assert got.payloads == [b"%d" % number for number in range(10)]
    assert second.unrouted == 0


async def test_keep_subscriptions_leaves_them_with_the_broker_and_close_alone_does_not(mosquitto, session, inbox, until, peer):
    broker = mosquitto()
    settings: dict[str, Any] = {"client_id": "keeper", "session_expiry_s": 300}
    first = await session(broker.url, **settings)
    left, kept = await first.subscribe("left", 1, inbox(first)), await first.subscribe("kept", 1, inbox(first))
    await left.close()
    first.keep_subscriptions()
    await kept.close()
    await first.close()
    other = peer(broker.url)
    other.publish("left", b"1", 1)
    other.publish("kept", b"2", 1)
    second = await session(broker.url, **settings)
    got = inbox(second)
    await second.subscribe("+", 1, got)
    await until(lambda: got.messages)
    assert got.payloads == [b"2"]


async def test_after_kill_9_of_the_broker_everything_goes_on(mosquitto, session, inbox, until, peer):
    broker = mosquitto()
    one = await session(broker.url, session_expiry_s=300)
    got, states = inbox(one), []
    one.on_state.append(lambda state, reason: states.append((state, reason)))
    await one.subscribe("a/+", 1, got)
    await one.subscribe("b", 0, got)
    broker.kill()
    await until(lambda: one.state != "connected")
    waiting = [one.publish("a/1", b"while away", 1), one.publish("b", b"at QoS 0 too")]
    assert not any(future.done() for future in waiting)
    broker.start()
    await asyncio.wait_for(asyncio.gather(*waiting), 20)
    await until(lambda: len(got.messages) == 2)
    peer(broker.url).publish("a/2", b"from another", 1)
    await until(lambda: len(got.messages) == 3)
    assert got.payloads[2] == b"from another"
    down = [reason for state, reason in states if state == "down" and reason]
    assert down and broker.url in down[0]
    assert states[-1] == ("connected", "")


async def test_a_slow_answer_is_not_asked_for_twice_when_the_link_flaps(mosquitto, session, inbox, until):
    broker = mosquitto("allow_anonymous true\npersistence true\nautosave_on_changes true\nautosave_interval 1")
    one = await session(broker.url, session_expiry_s=300)
    held, end = inbox(one, hold=True), inbox(one)
    await one.subscribe("t", 1, held)
    await one.subscribe("end", 1, end)
    await one.publish("t", b"slow", 1)
    await until(lambda: held.messages)
    one._connection._raw.shutdown(socket.SHUT_RDWR)  # the link breaks; the broker keeps the session
    await until(lambda: one.state != "connected")
    one.ack(held.messages[0])
    await until(lambda: one.state == "connected")
    await one.publish("end", b"", 1)
    await until(lambda: end.messages)
    assert held.payloads == [b"slow"]
    await until(lambda: len(one._inbox._receiver) == 0, "the acknowledgement to be made good")


async def test_publishing_to_what_is_no_topic_fails(mosquitto, session):
    one = await session(mosquitto().url)
    for topic in ("a/+", "", "a#"):
        with pytest.raises(TriggerError, match="cannot publish to"):
            await one.publish(topic, b"")


async def test_more_than_max_queued_while_away_fails_and_says_so(session, free_port):
    one = await session(f"mqtt://127.0.0.1:{free_port()}", wait=False, max_queued=3)
    kept = [one.publish("t", b"", qos) for qos in (0, 1, 2)]
    with pytest.raises(TriggerError, match="3 messages wait already"):
        await one.publish("t", b"", 1)
    await one.close(0)
    for future in kept:
        with pytest.raises(TriggerError, match="closed before"):
            await future
    with pytest.raises(TriggerError, match="is closed"):
        await one.publish("t", b"")


async def test_a_message_over_the_brokers_limit_fails_and_the_connection_stays(mosquitto, session):
    one = await session(mosquitto("allow_anonymous true\nmax_packet_size 1000").url)
    with pytest.raises(TriggerError, match="1000 bytes"):
        await one.publish("t", b"x" * 2000)
    await one.publish("t", b"x", 1)
    assert one.state == "connected"


async def test_the_brokers_window_is_respected(mosquitto, session, inbox, until):
    one = await session(mosquitto("allow_anonymous true\nmax_inflight_messages 5").url)
    most = 0
    futures = [one.publish("t", b"%d" % number, 1 + number % 2) for number in range(200)]
    while not all(future.done() for future in futures):
        most = max(most, len(one._publisher._sender.in_flight))
        await asyncio.sleep(0)
    assert 0 < most <= 5


async def test_twenty_thousand_messages_keep_their_order_and_memory_stays_bounded(mosquitto, session, inbox, until):
    one = await session(mosquitto("allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 1000").url)
    got, most = inbox(one), 0
    await one.subscribe("flood", 1, got)
    for begin in range(0, 20_000, 1000):
        futures = [one.publish("flood", b"%d" % (begin + number), 1) for number in range(1000)]
        await asyncio.gather(*futures)
        most = max(most, len(one._inbox._receiver))
    await until(lambda: len(got.messages) == 20_000)
    assert got.payloads == [b"%d" % number for number in range(20_000)]
    assert most <= 256 and len(one._inbox._receiver) == 0


async def test_a_flood_leaves_the_loop_to_others(mosquitto, session, inbox, until, peer):
    broker = mosquitto("allow_anonymous true\nmax_queued_messages 0")
    one, other = await session(broker.url), peer(broker.url)
    turns, at = 0, []

    def slow(message: Message) -> None:
        at.append(turns)

    await one.subscribe("flood", 0, slow)
    for _ in range(3000):
        other.client.publish("flood", b"x")
    while len(at) < 3000:
        turns += 1
        await asyncio.sleep(0)
    in_one_turn = max(at.count(turn) for turn in set(at))
    assert in_one_turn <= 400  # two turns' worth at most between two of ours


async def test_a_handler_that_raises_takes_nothing_with_it(mosquitto, session, inbox, until, caplog):
    one = await session(mosquitto().url)

    def broken(message: Message) -> None:
        raise RuntimeError("no")

    got = inbox(one)
    await one.subscribe("t", 0, broken)
    await one.subscribe("u", 0, got)
    await one.publish("t", b"")
    await one.publish("u", b"")
    await until(lambda: got.messages)
    assert "could not be handed over" in caplog.text


async def test_messages_of_an_earlier_run_that_nobody_wants_are_dropped_in_the_end(
    mosquitto, session, inbox, until, peer, monkeypatch, caplog
):
    monkeypatch.setattr("edgehost.mqtt.inbox._PARK_S", 0.3)
    broker = mosquitto()
    settings: dict[str, Any] = {"client_id": "keeper", "session_expiry_s": 300}
    first = await session(broker.url, **settings)
    await first.subscribe("old", 1, inbox(first))
    await first.close()
    peer(broker.url).publish("old", b"", 1)
    second = await session(broker.url, **settings)
    await until(lambda: "dropped that no function subscribes to" in caplog.text)
    assert second.unrouted == 1 and len(second._inbox._receiver) == 0


async def test_a_filter_changed_between_two_runs_neither_loses_nor_doubles(mosquitto, session, inbox, until, peer, monkeypatch):
    monkeypatch.setattr("edgehost.mqtt.inbox._PARK_S", 0.3)
    broker, other_settings = mosquitto(), {"client_id": "keeper", "session_expiry_s": 300}
    first = await session(broker.url, **other_settings)
    await first.subscribe("a/+", 1, inbox(first))
    await first.close()
    other = peer(broker.url)
    other.publish("a/1", b"kept", 1)
    second = await session(broker.url, **other_settings)
    got, end = inbox(second), inbox(second)
    await second.subscribe("a/#", 1, got)
    await second.subscribe("end", 1, end)
    await until(lambda: got.payloads == [b"kept"])
    await until(lambda: not second._inbox._settling)
    other.publish("a/2", b"live", 1)
    other.publish("end", b"", 1)
    await until(lambda: end.messages)
    assert got.payloads == [b"kept", b"live"]
    await until(lambda: len(second._inbox._receiver) == 0, "the copy for the old filter to be let go")


async def test_a_will_is_published_when_we_vanish(mosquitto, until, peer):
    broker = mosquitto()
    other = peer(broker.url)
    other.subscribe("status", 1)
    one = Session("default", Broker(url=broker.url, client_id="w"), logging.getLogger(), Will("status", b"gone", retain=False))
    await one.start()
    await until(lambda: one.state == "connected")
    one._connection._raw.shutdown(socket.SHUT_RDWR)
    assert (await other.anext()).payload == b"gone"
    await one.close(0)
