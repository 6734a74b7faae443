"""MQTT 5 packets out of a stream of bytes, as far as delivery goes by them. Pure, and written anew from the standard on purpose:
a mistake in the agent's own reading must not be repeated by who checks it.
"""

from __future__ import annotations

from dataclasses import dataclass

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, DISCONNECT = 1, 2, 3, 4, 5, 6, 7, 14
NAMES = {
    1: "CONNECT", 2: "CONNACK", 3: "PUBLISH", 4: "PUBACK", 5: "PUBREC", 6: "PUBREL", 7: "PUBCOMP", 8: "SUBSCRIBE", 9: "SUBACK",
    10: "UNSUBSCRIBE", 11: "UNSUBACK", 12: "PINGREQ", 13: "PINGRESP", 14: "DISCONNECT", 15: "AUTH",
}  # fmt: skip
REFUSED = 0x80
"""A reason code from here on says no (MQTT 5, 2.4)."""


@dataclass(frozen=True)
class Packet:
    """One packet. What a kind does not have is empty."""

    kind: int
    raw: bytes = b""
    packet_id: int = 0
    reason: int = 0
    """Of an acknowledgement, a CONNACK or a DISCONNECT."""
    topic: str = ""
    payload: bytes = b""
    qos: int = 0
    repeated: bool = False
    """DUP."""
    session_present: bool = False

    def __str__(self) -> str:
        told = NAMES.get(self.kind, str(self.kind))
        if self.packet_id:
            told += f" {self.packet_id}"
        if self.kind == PUBLISH:
            told += f" QoS {self.qos}{' DUP' if self.repeated else ''}"
        if self.kind == CONNACK:
            told += " session present" if self.session_present else " new session"
        return told + (f" reason 0x{self.reason:02x}" if self.reason else "")


class Cutter:
    """Cuts one direction of a connection into packets."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are whole with `data`."""
        self._rest += data
        packets = []
        while (end := _end(self._rest)) and end <= len(self._rest):
            packets.append(read(bytes(self._rest[:end])))
            del self._rest[:end]
        return packets


def _end(data: bytearray) -> int:
    """Where the first packet in `data` ends; 0 while its length is not all there."""
    found = _length(data, 1)
    return found[0] + found[1] if found is not None else 0


def _length(data: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """A variable byte integer at `at`, and the position behind it (MQTT 5, 1.5.5)."""
    number = 0
    for index in range(4):
        if at + index >= len(data):
            return None
        byte = data[at + index]
        number += (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, at + index + 1
    raise ValueError("a length of more than four bytes: this is no MQTT")


def read(raw: bytes) -> Packet:
    """One whole packet."""
    kind, flags = raw[0] >> 4, raw[0] & 0x0F
    found = _length(raw, 1)
    assert found is not None
    body = raw[found[1] :]
    if kind == PUBLISH:
        return _publish(raw, flags, body)
    if kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
        return Packet(kind, raw, int.from_bytes(body[:2], "big"), body[2] if len(body) > 2 else 0)
    if kind == CONNACK:
        return Packet(kind, raw, reason=body[1], session_present=bool(body[0] & 1))
    if kind == DISCONNECT:
        return Packet(kind, raw, reason=body[0] if body else 0)
    return Packet(kind, raw)


def _publish(raw: bytes, flags: int, body: bytes) -> Packet:
    at = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:at].decode()
    qos, packet_id = flags >> 1 & 3, 0
    if qos:
        packet_id = int.from_bytes(body[at : at + 2], "big")
        at += 2
    found = _length(body, at)
    assert found is not None
    return Packet(PUBLISH, raw, packet_id, 0, topic, body[found[0] + found[1] :], qos, bool(flags & 8))
