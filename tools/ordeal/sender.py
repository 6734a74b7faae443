"""Feeds the MQTT flows: numbered messages at each flow's rate, straight to the broker, and again what messages.py says.

Counts as sent what the broker has acknowledged. Knows no agent; paho's client keeps what the broker has not acknowledged.
"""

from __future__ import annotations

import heapq
import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tools.ordeal.messages import FLOWS, Flow, Message, message

_MOST_UNACKNOWLEDGED = 400
"""With more the broker is away: nothing new until it is back."""
_EXPIRY_S = 24 * 3600


class Sender:
    """`tick` is called often; everything that is due by then leaves."""

    def __init__(self, seed: int, port: int) -> None:
        self.sent: dict[str, set[int]] = {flow.name: set() for flow in FLOWS}
        """By flow: the numbers that the broker has acknowledged, once at the least."""
        self._seed = seed
        self._port = port
        self._next = {flow.name: 0 for flow in FLOWS if not flow.web}
        self._due = dict.fromkeys(self._next, 0.0)
        self._again: list[tuple[float, str, Message]] = []
        self._unacknowledged: dict[int, Message] = {}
        self._early: set[int] = set()
        """Acknowledged before `publish` had said what their packet identifier was."""
        self._lock = threading.Lock()
        self._client = client("sender")
        self._client.on_publish = self._published

    def start(self) -> None:
        """Connect; from here on it stays connected by itself."""
        connect(self._client, self._port)

    @property
    def unacknowledged(self) -> int:
        with self._lock:
            return len(self._unacknowledged)

    def tick(self, passed_s: float) -> None:
        """So much time has gone by."""
        if self.unacknowledged > _MOST_UNACKNOWLEDGED:
            return
        for flow in FLOWS:
            if flow.web:
                continue
            self._due[flow.name] += passed_s * flow.per_s
            while self._due[flow.name] >= 1.0:
                self._due[flow.name] -= 1.0
                self._send_next(flow)
        now = time.monotonic()
        while self._again and self._again[0][0] <= now:
            self._send(heapq.heappop(self._again)[2])

    def close(self) -> None:
        """End the connection."""
        disconnect(self._client)

    def _send_next(self, flow: Flow) -> None:
        number = self._next[flow.name]
        self._next[flow.name] += 1
        one = message(self._seed, flow, number)
        self._send(one)
        if one.again_after_s:
            heapq.heappush(self._again, (time.monotonic() + one.again_after_s, one.id, one))

    def _send(self, one: Message) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = [("id", one.id)]
        told = self._client.publish(f"in/{one.flow}", one.body, 1, properties=properties)
        with self._lock:
            if told.mid in self._early:
                self._early.discard(told.mid)
                self.sent[one.flow].add(one.number)
            else:
                self._unacknowledged[told.mid] = one

    def _published(self, _client: Any, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        with self._lock:
            one = self._unacknowledged.pop(mid, None)
            if one is None:
                self._early.add(mid)
            else:
                self.sent[one.flow].add(one.number)


def client(name: str) -> mqtt.Client:
    """A client whose session outlives its connections, and that comes back soon."""
    one = mqtt.Client(CallbackAPIVersion.VERSION2, f"trial-{name}", protocol=mqtt.MQTTv5)
    one.max_queued_messages_set(0)
    one.reconnect_delay_set(0.2, 1.0)  # type: ignore[arg-type]
    return one


def connect(one: mqtt.Client, port: int) -> None:
    """Connect, and go on in a thread of its own."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = _EXPIRY_S
    one.connect("127.0.0.1", port, clean_start=False, properties=properties)
    one.loop_start()


def disconnect(one: mqtt.Client) -> None:
    """Disconnect, and end the thread."""
    one.disconnect()
    one.loop_stop()
