"""PUBLISH and its acknowledgements as bytes. paho-mqtt's own packing is the oracle, both ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgehost.mqtt.packets import (
    LARGEST_BYTES,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    MalformedPacketError,
    Message,
    decode_acknowledgement,
    decode_length,
    decode_publish,
    encode_acknowledgement,
    encode_length,
    encode_properties,
    encode_publish,
    encode_text,
    frame,
)

# paho refuses what the standard discourages (1.5.4: control characters, non-characters); we pass those on.
TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xD7FF, exclude_characters="\x7f+#"), max_size=40)
TOPIC = TEXT.filter(bool)
MESSAGES = st.builds(
    Message,
    topic=TOPIC,
    payload=st.binary(max_size=300),
    qos=st.integers(0, 2),
    retain=st.booleans(),
    duplicate=st.booleans(),
    packet_id=st.integers(1, 65535),
    content_type=TEXT,
    response_topic=TEXT,
    correlation_data=st.none() | st.binary(max_size=20),
    user_properties=st.dictionaries(TEXT, TEXT, max_size=3),
)


def ours(message: Message, version_5: bool) -> bytes:
    properties = b""
    if version_5:
        properties = encode_properties(
            message.content_type, message.user_properties, message.correlation_data, message.response_topic
        )
    return encode_publish(
        encode_text(message.topic), message.payload, properties, message.qos, message.retain, message.packet_id, message.duplicate
    )


def read(packet: bytes, version_5: bool = True) -> Message:
    start, end = frame(packet, 0)
    assert end == len(packet)
    return decode_publish(packet, packet[0], start, end, version_5)


@given(number=st.integers(0, LARGEST_BYTES))
def test_a_length_comes_back(number: int) -> None:
    encoded = encode_length(number)
    assert len(encoded) <= 4
    assert decode_length(encoded, 0) == (number, len(encoded))


@pytest.mark.parametrize("number", [0, 127, 128, 16383, 16384, 2_097_151, 2_097_152, LARGEST_BYTES])
def test_lengths_are_as_short_as_the_standard_asks(number: int) -> None:
    assert len(encode_length(number)) == 1 + (number > 127) + (number > 16383) + (number > 2_097_151)


def test_what_no_packet_can_hold_is_refused() -> None:
    with pytest.raises(ValueError):
        encode_length(LARGEST_BYTES + 1)
    with pytest.raises(ValueError):
        encode_text("x" * 65536)
    with pytest.raises(MalformedPacketError):
        decode_length(b"\xff\xff\xff\xff\x01", 0)


@given(message=MESSAGES, version_5=st.booleans())
def test_what_we_write_paho_reads(message: Message, version_5: bool) -> None:
    packet = ours(message, version_5)
    start, _ = frame(packet, 0)
    protocol = MQTTProtocolVersion.MQTTv5 if version_5 else MQTTProtocolVersion.MQTTv311
    found = _packet.decode_publish(packet[0], bytearray(packet[start:]), protocol)
    assert (found.topic.decode(), bytes(found.payload)) == (message.topic, message.payload)
    assert (found.qos, bool(found.retain), bool(found.dup)) == (message.qos, message.retain, message.duplicate)
    assert found.mid == (message.packet_id if message.qos else 0)
    if version_5:
        properties: Any = found.properties
        assert getattr(properties, "ContentType", "") == message.content_type
        assert getattr(properties, "ResponseTopic", "") == message.response_topic
        assert getattr(properties, "CorrelationData", None) == message.correlation_data
        assert dict(getattr(properties, "UserProperty", [])) == message.user_properties


@given(message=MESSAGES, version_5=st.booleans())
def test_what_we_write_we_read(message: Message, version_5: bool) -> None:
    found = read(ours(message, version_5), version_5)
    expected = message
    if not version_5:
        expected = Message(message.topic, message.payload, message.qos, message.retain, message.duplicate, message.packet_id)
    for name in Message.__struct_fields__:
        if name != "packet_id" or message.qos:
            assert getattr(found, name) == getattr(expected, name), name


def test_every_property_a_publish_may_carry_is_read_or_passed_over() -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 60
    properties.ContentType = "text/plain"
    properties.ResponseTopic = "answers"
    properties.CorrelationData = b"\1\2"
    properties.SubscriptionIdentifier = 300
    properties.UserProperty = ("a", "1")
    properties.UserProperty = ("a", "2")
    found = read(encode_publish(encode_text("t"), b"body", properties.pack()))
    assert found == Message("t", b"body", 0, False, False, 0, "text/plain", "answers", b"\1\2", {"a": "2"}, (300,))


def test_two_messages_with_the_same_properties_are_told_apart() -> None:
    first = encode_publish(encode_text("t"), b"1", encode_properties("text/plain", {"unit": "C"}))
    second = encode_publish(encode_text("t"), b"2", encode_properties("text/plain", {"unit": "C"}))
    assert [read(first).payload, read(second).payload, read(first).user_properties] == [b"1", b"2", {"unit": "C"}]


@pytest.mark.parametrize(
    "packet",
    [
        b"\x30\x01\x00",  # no room for a topic's length
        b"\x30\x03\x00\x05a",  # a topic longer than the packet
        b"\x36\x06\x00\x01a\x00\x01\x00",  # QoS 3
        b"\x32\x05\x00\x01a\x00\x00",  # packet identifier 0
        b"\x30\x04\x00\x01\xff\x00",  # not UTF-8
        b"\x30\x05\x00\x01a\x05\x03",  # properties longer than the packet
        b"\x30\x07\x00\x01a\x03\x23\x00\x01",  # a topic alias, which we never allow
        b"\x30\x06\x00\x01a\x02\x03\x00",  # half a content type
    ],
)
def test_bytes_that_are_no_publish_are_refused(packet: bytes) -> None:
    start, end = frame(packet, 0)
    with pytest.raises(MalformedPacketError):
        decode_publish(packet, packet[0], start, end, True)


@given(data=st.binary(max_size=60), version_5=st.booleans(), first=st.integers(0x30, 0x3F))
def test_no_bytes_whatever_end_in_another_error(data: bytes, version_5: bool, first: int) -> None:
    try:
        decode_publish(data, first, 0, len(data), version_5)
    except MalformedPacketError:
        pass


@given(message=MESSAGES)
def test_a_packet_that_is_not_all_there_says_so(message: Message) -> None:
    packet = ours(message, True)
    for size in (0, 1):
        with pytest.raises(IndexError):
            frame(packet[:size], 0)
    assert frame(packet + b"\x30", 0)[1] == len(packet)


@pytest.mark.parametrize(("kind", "first"), [(PUBACK, 0x40), (PUBREC, 0x50), (PUBREL, 0x62), (PUBCOMP, 0x70)])
def test_acknowledgements_have_the_bytes_of_the_standard(kind: int, first: int) -> None:
    assert encode_acknowledgement(kind, 0x1234) == bytes((first, 2, 0x12, 0x34))
    assert decode_acknowledgement(encode_acknowledgement(kind, 0x1234), 2, 4) == (0x1234, 0)


def test_a_reason_code_of_an_acknowledgement_is_read() -> None:
    assert decode_acknowledgement(b"\x40\x04\x00\x07\x87\x00", 2, 6) == (7, 0x87)
    with pytest.raises(MalformedPacketError):
        decode_acknowledgement(b"\x40\x01\x00", 2, 3)
