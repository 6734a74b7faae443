"""paho-mqtt with our own socket and our own packet identifiers: the only file that knows its insides.

Four private names of paho-mqtt are used, each marked PRIVATE below and held by tests/mqtt/test_paho.py: `_create_socket` (to put
the Wire between), `_mid_generate` (one set of packet ids), `_last_bytes_received` and `_ping_t` (its keep-alive).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from msgspec import Struct
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgehost.config import Broker
from edgehost.mqtt.endpoint import Address, read_password, tls_context

RECEIVE_MAXIMUM = 256
"""QoS 1 and 2 messages the broker may have unacknowledged with us: the bound of what they hold in memory (MQTT 5, 3.1.2.11.3)."""
LARGEST_PACKET_BYTES = 16 * 1024 * 1024
"""The broker keeps larger packets from us (MQTT 5, 3.1.2.11.4)."""


class Will(Struct, frozen=True):
    """What the broker publishes for us when we vanish without a DISCONNECT (MQTT 5, 3.1.2.5)."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


class Opened(Struct, frozen=True):
    """What the broker granted in its CONNACK (MQTT 5, 3.2.2.3)."""

    session_present: bool = False
    receive_maximum: int = 65535
    maximum_qos: int = 2
    largest_packet_bytes: int = 268_435_455
    subscription_ids: bool = False


class Wire:
    """What paho takes for its socket: it reads what is put into `inbox`; what it writes goes to `write`, its close to `shut`."""

    def __init__(self, raw: Any, write: Callable[[bytes], None], shut: Callable[[], None]) -> None:
        self.raw = raw
        self.inbox = b""
        self._write = write
        self.close = shut

    def recv(self, most: int) -> bytes:
        if not self.inbox:
            raise BlockingIOError
        taken, self.inbox = self.inbox[:most], self.inbox[most:]
        return taken

    def send(self, data: bytes) -> int:
        self._write(bytes(data))
        return len(data)

    def fileno(self) -> int:
        return int(self.raw.fileno())

    def setblocking(self, flag: bool) -> None:
        self.raw.setblocking(flag)


class PahoClient(paho.Client):
    """One attempt to connect. CONNECT, SUBSCRIBE, PING and DISCONNECT are its work; it never sees a PUBLISH."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        take_id: Callable[[], int],
        write: Callable[[bytes], None],
        shut: Callable[[], None],
    ) -> None:
        self._take_id, self._wire_write, self._wire_shut = take_id, write, shut
        version_5 = broker.version == "5"
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if version_5 else broker.session_expiry_s == 0,
            protocol=MQTTProtocolVersion.MQTTv5 if version_5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )

    def _create_socket(self) -> Any:  # PRIVATE
        raw: Any = super()._create_socket()
        # Nagle's algorithm and delayed acknowledgements together cost 40 ms a message.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Wire(raw, self._wire_write, self._wire_shut)

    def _mid_generate(self) -> int:  # PRIVATE
        return self._take_id()

    def heard(self) -> None:
        """Bytes came in past paho: its keep-alive has to know, or it takes a busy broker for a dead one."""
        self._last_bytes_received = time.monotonic()  # PRIVATE

    def deaf(self) -> None:
        """Nothing is read for now, so that no sign of life means nothing: pings are sent, and their answers not waited for."""
        self.heard()
        self._ping_t = 0.0  # PRIVATE

    def open(self, broker: Broker, address: Address) -> None:
        """Resolve, connect, shake hands and write CONNECT. Blocks. OSError or TriggerError when it comes to nothing."""
        if broker.username:
            self.username_pw_set(broker.username, read_password(broker))
        if address.tls:
            self.tls_set_context(tls_context(broker))
            self.tls_insecure_set(broker.insecure)
        self.connect_timeout = broker.connect_timeout_s
        if broker.version == "5":
            clean, properties = broker.session_expiry_s == 0, _connect_properties(broker)
            self.connect(address.host, address.port, broker.keepalive_s, clean_start=clean, properties=properties)
        else:
            self.connect(address.host, address.port, broker.keepalive_s)


def _connect_properties(broker: Broker) -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = broker.session_expiry_s
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    properties.MaximumPacketSize = LARGEST_PACKET_BYTES
    return properties


def subscription_properties(subscription_id: int) -> Properties:
    """The properties of a SUBSCRIBE; a broker names the id in each message that this subscription brings."""
    properties = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]
    if subscription_id:
        properties.SubscriptionIdentifier = subscription_id
    return properties


def granted(version_5: bool, session_present: bool, properties: Properties | None) -> Opened:
    """A CONNACK that said yes, as a value."""
    if not version_5 or properties is None:
        return Opened(session_present)
    found = properties.json()  # type: ignore[no-untyped-call]
    return Opened(
        session_present=session_present,
        receive_maximum=found.get("ReceiveMaximum", 65535),
        maximum_qos=found.get("MaximumQoS", 2),
        largest_packet_bytes=found.get("MaximumPacketSize", 268_435_455),
        subscription_ids=found.get("SubscriptionIdentifierAvailable", 1) == 1,
    )
