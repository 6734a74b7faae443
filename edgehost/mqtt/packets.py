"""The PUBLISH family of MQTT packets as bytes, both ways, for MQTT 5 and 3.1.1. Pure: no socket, no session, no clock.

paho-mqtt keeps every other packet. These six are ours because they are the hot path, and because one owner of a packet
identifier is the only safe number.

    PUBLISH   fixed header, topic, [packet id if QoS > 0], [properties if MQTT 5], payload        MQTT 5, 3.3
    PUBACK, PUBREC, PUBREL, PUBCOMP   fixed header, packet id, [reason code], [properties]        MQTT 5, 3.4 to 3.7
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812
from typing import TypeAlias

from msgspec import Struct

PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 0x30, 0x40, 0x50, 0x60, 0x70
LARGEST_BYTES = 268_435_455
"""The most a remaining length can say (MQTT 5, 1.5.5)."""
NO_PROPERTIES = b"\0"
FAILURE = 0x80
"""A reason code from here on means the packet was refused (MQTT 5, 2.4)."""

_U16 = Layout(">H")
_U32 = Layout(">I")
_ACKNOWLEDGEMENT = Layout(">BBH")

# Properties of PUBLISH (MQTT 5, 3.3.2.3) and how each is laid out.
_PAYLOAD_FORMAT, _EXPIRY, _CONTENT_TYPE, _RESPONSE_TOPIC, _CORRELATION = 0x01, 0x02, 0x03, 0x08, 0x09
_SUBSCRIPTION, _USER = 0x0B, 0x26
_Properties: TypeAlias = "tuple[str, str, bytes | None, dict[str, str], tuple[int, ...]]"
_SHORT_BYTES = 64


class MalformedPacketError(ValueError):
    """The peer sent bytes that are not MQTT; the connection has to end (MQTT 5, 4.13.1)."""


class Message(Struct, frozen=True, gc=False):
    """One message as it came from the broker. `packet_id` is 0 at QoS 0; the last five are MQTT 5's and empty below it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    duplicate: bool = False
    packet_id: int = 0
    content_type: str = ""
    response_topic: str = ""
    correlation_data: bytes | None = None
    user_properties: dict[str, str] = {}
    subscription_ids: tuple[int, ...] = ()


def encode_length(number: int) -> bytes:
    """A variable byte integer (MQTT 5, 1.5.5)."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number > LARGEST_BYTES:
        raise ValueError(f"{number} bytes is more than one MQTT packet can hold ({LARGEST_BYTES})")
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def decode_length(buffer: bytes, position: int) -> tuple[int, int]:
    """The variable byte integer at `position` and the position after it; IndexError when it is not all there yet."""
    number = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
        if shift > 21:
            raise MalformedPacketError("a length of more than four bytes")


def frame(buffer: bytes, position: int) -> tuple[int, int]:
    """Where the packet at `position` has its variable header and where it ends; IndexError when that is not all there."""
    length = buffer[position + 1]
    if length < 0x80:
        start = position + 2
        return start, start + length
    length, start = decode_length(buffer, position + 1)
    return start, start + length


def encode_text(text: str) -> bytes:
    """A UTF-8 string with its length (MQTT 5, 1.5.4); ValueError when it is longer than 65535 bytes."""
    return encode_binary(text.encode())


def encode_binary(data: bytes) -> bytes:
    """Binary data with its length (MQTT 5, 1.5.6); ValueError when it is longer than 65535 bytes."""
    if len(data) > 0xFFFF:
        raise ValueError(f"a field of {len(data)} bytes does not fit an MQTT packet; 65535 is the most")
    return _U16.pack(len(data)) + data


def encode_properties(
    content_type: str = "",
    headers: Mapping[str, str] | None = None,
    correlation_data: bytes | None = None,
    response_topic: str = "",
    expiry_s: int | None = None,
) -> bytes:
    """The property block of a PUBLISH, its length included. `headers` become user properties, in order."""
    if content_type and not headers and correlation_data is None and not response_topic and expiry_s is None:
        return _content_type_alone(content_type)
    parts = []
    if expiry_s is not None:
        parts.append(bytes((_EXPIRY,)) + _U32.pack(expiry_s))
    if content_type:
        parts.append(bytes((_CONTENT_TYPE,)) + encode_text(content_type))
    if response_topic:
        parts.append(bytes((_RESPONSE_TOPIC,)) + encode_text(response_topic))
    if correlation_data is not None:
        parts.append(bytes((_CORRELATION,)) + encode_binary(correlation_data))
    if headers:
        parts.extend(bytes((_USER,)) + encode_text(name) + encode_text(value) for name, value in headers.items())
    block = b"".join(parts)
    return encode_length(len(block)) + block


@lru_cache(maxsize=256)
def _content_type_alone(content_type: str) -> bytes:
    field = bytes((_CONTENT_TYPE,)) + encode_text(content_type)
    return encode_length(len(field)) + field


def encode_publish(
    topic_field: bytes,
    payload: bytes,
    properties: bytes,
    qos: int = 0,
    retain: bool = False,
    packet_id: int = 0,
    duplicate: bool = False,
) -> bytes:
    """A whole PUBLISH. `topic_field` is `encode_text(topic)`, kept by the caller; `properties` is b"" in 3.1.1."""
    first = PUBLISH | duplicate << 3 | qos << 1 | retain
    head = topic_field + _U16.pack(packet_id) + properties if qos else topic_field + properties
    return b"".join((bytes((first,)), encode_length(len(head) + len(payload)), head, payload))


def encode_acknowledgement(kind: int, packet_id: int) -> bytes:
    """A PUBACK, PUBREC, PUBREL or PUBCOMP that says success; the same bytes in MQTT 5 and 3.1.1."""
    # The low bits of PUBREL are 0010 by rule (MQTT 5, 2.1.3).
    return _ACKNOWLEDGEMENT.pack(kind | 2 if kind == PUBREL else kind, 2, packet_id)


def decode_acknowledgement(buffer: bytes, start: int, end: int) -> tuple[int, int]:
    """Packet identifier and reason code of a PUBACK, PUBREC, PUBREL or PUBCOMP; without a reason code it is 0, success."""
    if end - start < 2:
        raise MalformedPacketError("an acknowledgement without a packet identifier")
    return _U16.unpack_from(buffer, start)[0], buffer[start + 2] if end - start > 2 else 0


def decode_publish(buffer: bytes, first: int, start: int, end: int, version_5: bool) -> Message:
    """The message in the PUBLISH whose first byte is `first` and whose variable header and payload are `buffer[start:end]`."""
    try:
        qos = first >> 1 & 3
        position = start + 2 + (buffer[start] << 8 | buffer[start + 1])
        topic = buffer[start + 2 : position].decode()
        packet_id = 0
        if qos:
            packet_id = buffer[position] << 8 | buffer[position + 1]
            position += 2
        if qos == 3 or position > end or (qos and not packet_id):
            raise MalformedPacketError(f"a PUBLISH with QoS {qos}, packet identifier {packet_id} and {end - start} bytes")
        if not version_5:
            return Message(topic, buffer[position:end], qos, first & 1 == 1, first & 8 == 8, packet_id)
        length = buffer[position]
        position += 1
        if length >= 0x80:
            length, position = decode_length(buffer, position - 1)
        payload_at = position + length
        if payload_at > end:
            raise MalformedPacketError("properties longer than their packet")
        if not length:
            return Message(topic, buffer[position:end], qos, first & 1 == 1, first & 8 == 8, packet_id)
        properties = _properties(buffer[position:payload_at])
        return Message(topic, buffer[payload_at:end], qos, first & 1 == 1, first & 8 == 8, packet_id, *properties)
    except (IndexError, UnicodeDecodeError, LayoutError) as error:
        raise MalformedPacketError(f"a PUBLISH that ends too early or is not UTF-8: {error}") from error


@lru_cache(maxsize=1024)
def _short_properties(block: bytes) -> _Properties:
    return _decode_properties(block)


def _properties(block: bytes) -> _Properties:
    """A device says the same in each of its messages: short blocks are read once. Nobody may change the dict in the answer."""
    return _short_properties(block) if len(block) <= _SHORT_BYTES else _decode_properties(block)


def _decode_properties(buffer: bytes) -> _Properties:
    position, end = 0, len(buffer)
    content_type = response_topic = ""
    correlation_data = None
    user: dict[str, str] = {}
    subscriptions: tuple[int, ...] = ()
    while position < end:
        identifier = buffer[position]
        position += 1
        if identifier == _SUBSCRIPTION:
            number, position = decode_length(buffer, position)
            subscriptions = (*subscriptions, number)
        elif identifier == _USER:
            name, position = _decode_binary(buffer, position, end)
            value, position = _decode_binary(buffer, position, end)
            user[name.decode()] = value.decode()
        elif identifier == _CONTENT_TYPE:
            data, position = _decode_binary(buffer, position, end)
            content_type = data.decode()
        elif identifier == _RESPONSE_TOPIC:
            data, position = _decode_binary(buffer, position, end)
            response_topic = data.decode()
        elif identifier == _CORRELATION:
            correlation_data, position = _decode_binary(buffer, position, end)
        elif identifier == _PAYLOAD_FORMAT:
            position += 1
        elif identifier == _EXPIRY:
            position += 4
        else:
            # A Topic Alias (0x23) is here on purpose: we never offer a Topic Alias Maximum, so a broker may not send one.
            raise MalformedPacketError(f"property 0x{identifier:02x} does not belong in a PUBLISH")
    if position != end:
        raise MalformedPacketError("a property that ends outside its block")
    return content_type, response_topic, correlation_data, user, subscriptions


def _decode_binary(buffer: bytes, position: int, end: int) -> tuple[bytes, int]:
    after = position + 2 + _U16.unpack_from(buffer, position)[0]
    if after > end:
        raise MalformedPacketError("a field longer than its packet")
    return buffer[position + 2 : after], after
