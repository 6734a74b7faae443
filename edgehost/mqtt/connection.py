"""One connection to a broker, from the blocking connect to the lost socket; a new one is made for every attempt.

The lane for PUBLISH: this file reads ahead (64 KiB a call), walks over the packets, gives those of the PUBLISH family to its
`Listener` and all others to paho-mqtt, and joins everything written in one turn of the loop into one send. Knows nothing of
messages that wait, of connecting again, of handlers.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgehost.config import Broker
from edgehost.mqtt.endpoint import parse_url
from edgehost.mqtt.exchanges import PacketIds
from edgehost.mqtt.packets import PUBCOMP, PUBLISH, MalformedPacketError, frame
from edgehost.mqtt.paho_client import LARGEST_PACKET_BYTES, Opened, PahoClient, Will, Wire, granted, subscription_properties
from edgehost.mqtt.reasons import closed, refusal, trouble

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Acknowledge what was read at once, each time (tcp(7)). A broker that leaves Nagle's algorithm on, as mosquitto does unless told
otherwise, holds its next small packet back until then: 40 ms, where the network takes one."""
_READ_BYTES = 65536
# Packets handled in one turn of the loop: a few milliseconds, so a flood of messages does not keep HTTP or a worker waiting.
_PACKETS_A_TURN = 200
# Above this much unsent the broker is slow: messages then wait in the session's own bounded queue.
_BUFFER_BYTES = 1024 * 1024


class Listener(Protocol):
    """Who is told what happens on a connection. All of these are called in the loop; `lost` once, as the last."""

    def opened(self, grant: Opened) -> None: ...

    def packet(self, first: int, buffer: bytes, start: int, end: int) -> None: ...

    def confirmed(self, packet_id: int, reasons: list[ReasonCode]) -> None: ...

    def drained(self) -> None: ...

    def lost(self, reason: str) -> None: ...


class Connection:
    """One connection. `open` blocks and belongs in a thread; everything else belongs to the loop."""

    def __init__(self, broker: Broker, client_id: str, ids: PacketIds, listener: Listener, will: Will | None = None) -> None:
        self.buffered_bytes = 0
        self._broker = broker
        self._address = parse_url(broker.url)
        self._ids = ids
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._raw: Any = None
        self._wire: Wire | None = None
        self._out: list[bytes] = []
        self._unsent: deque[memoryview] = deque()
        self._flushing = False
        self._partial = bytearray()
        self._needed_bytes = 0
        self._backlog = False
        self._reading = True
        self._heard = False
        self._given_up = False
        self._told = False
        self._greeted = False
        client = self._client = PahoClient(broker, client_id, ids.take, self.write, self.shut)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = lambda _client, _data, packet_id, reasons, _properties: self._confirmed(packet_id, reasons)
        client.on_unsubscribe = lambda _client, _data, packet_id, reasons, _properties: self._confirmed(packet_id, reasons)
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)

    @property
    def room(self) -> bool:
        """False while the broker takes less than we write."""
        return self.buffered_bytes < _BUFFER_BYTES

    def open(self) -> None:
        """Resolve the name, connect, shake hands and write CONNECT: blocks for up to `connect_timeout_s`.

        OSError (TLS errors are some) when the broker is not to be had, TriggerError when a setting has to be mended first.
        """
        self._client.open(self._broker, self._address)
        if self._given_up:
            self.shut()  # while we were away in the thread

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to read and write in the loop. The CONNACK comes as `Listener.opened` or `Listener.lost`."""
        wire = self._client.socket()
        assert isinstance(wire, Wire)
        self._loop, self._wire, self._raw = loop, wire, wire.raw
        loop.add_reader(self._raw.fileno(), self._readable)
        self._flush()

    def write(self, data: bytes) -> None:
        """Send these bytes, together with all others of this turn of the loop."""
        self._out.append(data)
        self.buffered_bytes += len(data)
        if not self._flushing and self._loop is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def read(self, on: bool) -> None:
        """Whether to take what the broker sends. Whole packets that are here already are handed over all the same."""
        if on == self._reading or self._raw is None or self._loop is None:
            return
        self._reading = on
        if on:
            self._loop.add_reader(self._raw.fileno(), self._readable)
            self._loop.call_soon(self._readable)  # what lies inside the TLS layer wakes no selector
        else:
            self._loop.remove_reader(self._raw.fileno())

    def subscribe(self, filter_text: str, qos: int, subscription_id: int) -> int:
        """Ask for a subscription; the packet id whose `confirmed` tells how it went. `subscription_id` 0 means none."""
        if self._broker.version != "5":
            return _asked(self._client.subscribe(filter_text, qos))
        options, properties = SubscribeOptions(qos=qos), subscription_properties(subscription_id)
        return _asked(self._client.subscribe(filter_text, options=options, properties=properties))

    def unsubscribe(self, filter_text: str) -> int:
        """End a subscription; the packet id whose `confirmed` comes when the broker has."""
        return _asked(self._client.unsubscribe(filter_text))

    def tick(self) -> None:
        """Once a second: keep-alive, both ways."""
        if not self._reading:
            self._client.deaf()
        elif self._heard:
            self._heard = False
            self._client.heard()
        self._client.loop_misc()

    def malformed(self, error: MalformedPacketError) -> None:
        """A packet could not be read: end the connection (MQTT 5, 4.13.1)."""
        self._lose(f"the broker at {self._broker.url} sent what is not MQTT: {error}")

    def close(self) -> None:
        """Say DISCONNECT and end; what is still buffered is sent if the socket takes it at once."""
        self._told = True
        self._client.disconnect()
        self.shut()

    def give_up(self) -> None:
        """End without a word, at any time, also while `open` is still in its thread."""
        self._given_up = self._told = True
        self.shut()

    def shut(self) -> None:
        """Drop the socket, whoever noticed first (paho does so before it says why). Safe to call twice."""
        if self._raw is None:
            # Never attached, or gone already.
            wire = self._client.socket()
            if isinstance(wire, Wire):
                wire.raw.close()
            return
        raw, self._raw = self._raw, None
        assert self._loop is not None
        self._loop.remove_reader(raw.fileno())
        self._loop.remove_writer(raw.fileno())
        try:
            raw.send(b"".join((*self._unsent, *self._out)))
        except OSError:
            pass  # what was buffered is lost with the connection; QoS 1 and 2 are sent again by the session
        raw.close()

    def _on_connect(
        self, _client: object, _data: object, flags: paho.ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._greeted = True
        if reason.is_failure:
            self._lose(refusal(reason.value, str(reason), self._broker))
        else:
            self._listener.opened(granted(self._broker.version == "5", bool(flags.session_present), properties))

    def _on_disconnect(
        self, _client: object, _data: object, flags: paho.DisconnectFlags, reason: ReasonCode, _properties: object
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._lose(refusal(reason.value, str(reason), self._broker))
        else:
            self._lose(f"the connection to the broker at {self._broker.url} ended: {str(reason).lower()}")

    def _confirmed(self, packet_id: int, reasons: Any) -> None:
        self._ids.free(packet_id)
        self._listener.confirmed(packet_id, list(reasons) if isinstance(reasons, list) else [reasons])

    def _readable(self) -> None:
        if self._backlog:
            return  # handle what is here before taking more
        try:
            while self._raw is not None and self._reading and not self._backlog:
                data = self._raw.recv(_READ_BYTES)
                if not data:
                    self._lose(closed(self._broker, self._greeted))
                    return
                self._heard = True
                if _QUICKACK is not None:
                    self._raw.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
                self._take(data)
                # Bytes inside the TLS layer wake no selector: read until none is left there.
                if not self._address.tls or self._raw is None or not self._raw.pending():
                    return
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._lose(trouble(error, self._broker))

    def _take(self, data: bytes) -> None:
        if self._partial:
            self._partial += data
            if len(self._partial) < self._needed_bytes:
                return
            data, self._partial = bytes(self._partial), bytearray()
        self._walk(data, 0)

    def _walk(self, buffer: bytes, position: int) -> None:
        """Hand over every whole packet from `position` on, but no more than a turn's worth; keep the rest."""
        size, packet = len(buffer), self._listener.packet
        for _ in range(_PACKETS_A_TURN):
            try:
                start, end = frame(buffer, position)
            except IndexError:
                return self._keep(buffer, position, 0)
            except MalformedPacketError as error:
                return self.malformed(error)
            if end > size:
                return self._keep(buffer, position, end - position)
            first = buffer[position]
            if PUBLISH <= first < PUBCOMP + 16:
                packet(first, buffer, start, end)
            else:
                self._give_to_paho(buffer[position:end])
            if self._raw is None:
                return None
            position = end
        self._backlog = True
        assert self._loop is not None
        self._loop.call_soon(self._go_on, buffer, position)
        return None

    def _go_on(self, buffer: bytes, position: int) -> None:
        self._backlog = False
        if self._raw is not None:
            self._walk(buffer, position)
        if self._raw is not None and self._address.tls and self._raw.pending():
            self._readable()

    def _keep(self, buffer: bytes, position: int, needed_bytes: int) -> None:
        if needed_bytes > LARGEST_PACKET_BYTES:
            return self.malformed(MalformedPacketError(f"{needed_bytes} bytes in one packet; {LARGEST_PACKET_BYTES} is the most"))
        self._partial, self._needed_bytes = bytearray(buffer[position:]), needed_bytes
        return None

    def _give_to_paho(self, packet: bytes) -> None:
        assert self._wire is not None
        self._wire.inbox += packet
        while self._wire.inbox and self._raw is not None:
            self._client.loop_read()
        if self._raw is not None and self._client.want_write():
            self._client.loop_write()

    def _flush(self) -> None:
        self._flushing = False
        if self._out and self._raw is not None and not self._unsent:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._send(memoryview(data))

    def _send(self, data: memoryview) -> None:
        assert self._loop is not None
        try:
            sent = self._raw.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except OSError as error:
            return self._lose(trouble(error, self._broker))
        self.buffered_bytes -= sent
        if sent < len(data):
            self._unsent.append(data[sent:])
            self._loop.add_writer(self._raw.fileno(), self._writable)
        return None

    def _writable(self) -> None:
        assert self._loop is not None
        data = self._unsent.popleft()
        self._loop.remove_writer(self._raw.fileno())
        self._send(data)
        if not self._unsent:
            self._flush()
            if self.room and self._raw is not None:
                self._listener.drained()

    def _lose(self, reason: str) -> None:
        if not self._told:
            self._told = True
            self.shut()
            self._listener.lost(reason)


def _asked(answer: tuple[Any, int | None]) -> int:
    code, packet_id = answer
    if code != paho.MQTT_ERR_SUCCESS or packet_id is None:
        raise ConnectionError(paho.error_string(code))
    return packet_id
