"""Asks a broker whether it would let us in: one connection, one CONNECT, one CONNACK, one DISCONNECT. Changes nothing there.

It uses a client id of its own and a clean session, so that it never takes over the session of a running agent.
"""

from __future__ import annotations

import os
import socket
import struct

from edgehost.config import Broker
from edgehost.errors import TriggerError
from edgehost.mqtt.endpoint import parse_url, read_password, tls_context
from edgehost.mqtt.packets import encode_length
from edgehost.mqtt.reasons import refusal, trouble

_CONNACK = 0x20
_DISCONNECT = b"\xe0\x00"
_LEVELS = {"5": 5, "3.1.1": 4}
_CLEAN, _PASSWORD, _USERNAME = 0x02, 0x40, 0x80
_KEEPALIVE_S = 10
_OLD_CODES = {1: 0x84, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}
"""A CONNACK's return codes (MQTT 3.1.1, 3.2.2.3) as the reason codes of MQTT 5."""


def connect_packet(client_id: str, version: str, username: str | None, password: str | None) -> bytes:
    """A CONNECT with a clean session and no will (MQTT 5, 3.1; MQTT 3.1.1, 3.1)."""
    flags = _CLEAN | (_USERNAME if username is not None else 0) | (_PASSWORD if password is not None else 0)
    head = _text("MQTT") + struct.pack(">BBH", _LEVELS[version], flags, _KEEPALIVE_S)
    properties = b"\0" if version == "5" else b""
    payload = b"".join(_text(text) for text in (client_id, username, password) if text is not None)
    rest = head + properties + payload
    return b"\x10" + encode_length(len(rest)) + rest


def connack_code(packet: bytes) -> int:
    """The reason code of the first four bytes of a CONNACK, as MQTT 5 has them; 0 is yes. Raises ValueError for other bytes."""
    if len(packet) < 4 or packet[0] != _CONNACK:
        raise ValueError("what answers there does not speak MQTT")
    return _OLD_CODES.get(packet[3], packet[3])


def probe(broker: Broker, timeout_s: float) -> str:
    """Connect to `broker` and leave. Gives why it does not work, in words that say what to do; empty if it does."""
    try:
        address = parse_url(broker.url)
        password = read_password(broker)
        with socket.create_connection((address.host, address.port), timeout_s) as plain:
            if not address.tls:
                return _greet(plain, broker, password)
            with tls_context(broker).wrap_socket(plain, server_hostname=address.host) as secured:
                return _greet(secured, broker, password)
    except TriggerError as error:
        return str(error)
    except ValueError as error:
        return f"the broker at {broker.url}: {error}; see url in [brokers.NAME]"
    except OSError as error:
        return trouble(error, broker)


def _greet(peer: socket.socket, broker: Broker, password: str | None) -> str:
    username = broker.username or (None if password is None else "")
    peer.sendall(connect_packet(f"edgehost-check-{os.getpid()}", broker.version, username, password))
    packet = b""
    while len(packet) < 4 and (more := peer.recv(64)):
        packet += more
    if not packet:
        return f'the broker at {broker.url} hung up on our CONNECT; an old one may need version = "3.1.1" in [brokers.NAME]'
    code = connack_code(packet)
    if code == 0:
        peer.sendall(_DISCONNECT)
        return ""
    return refusal(code, _reason_name(code), broker)


def _reason_name(code: int) -> str:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.reasoncodes import ReasonCode

    try:
        return str(ReasonCode(PacketTypes.CONNACK, identifier=code).getName())
    except KeyError:
        return "unknown reason"


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data
