"""The demonstration's end of the broker: plain MQTT clients that play the devices, hear every answer and count both.

Topics: the functions' manifests in examples/ say them.
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tools.demonstration.tally import Tally

LIVE, SYNTHETIC = "readings/machine", "readings/synthetic"
TOPICS = ("readings/#", "verdicts/#", "anomalies/#", "speech/#")
HEARD_FROM = 0.5
"""The probability from which a frame counts as speech."""
SUBSCRIBED_S = 10.0


@dataclass
class Hearing:
    """What the model made of one recording."""

    frames: int = 0
    speech: int = 0


@dataclass
class Seen:
    """The newest of everything, for the screen."""

    reading: dict[str, Any] = field(default_factory=dict)
    recording: str = ""
    probabilities: deque[float] = field(default_factory=lambda: deque(maxlen=60))
    hearings: dict[str, Hearing] = field(default_factory=dict)
    anomalies: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=200))
    spikes_found: int = 0


def client(name: str) -> paho.Client:
    """A client of MQTT 5, as the agent is: rumqttd 0.20 panics when a message with MQTT 5 properties is for one of MQTT 3.1.1."""
    return paho.Client(CallbackAPIVersion.VERSION2, client_id=f"edgehost-demonstration-{name}", protocol=paho.MQTTv5)


class Observer:
    """Two clients, as devices and watchers mostly are: one sends, one subscribes and counts. Callbacks run on paho's threads.

    With one connection for both, the broker's acknowledgement of a frame and the answer to it would be two small packets in a
    row, and a broker that leaves Nagle's algorithm on would hold the second until the first is confirmed: 40 ms.
    """

    def __init__(self, broker_url: str) -> None:
        self.seen = Seen()
        self.live, self.anomaly, self.speech = Tally(), Tally(), Tally()
        self._subscribed = Event()
        self._device = client("devices")
        self._watcher = client("watcher")
        self._watcher.on_connect = lambda watcher, *_: watcher.subscribe([(topics, 1) for topics in TOPICS])
        self._watcher.on_subscribe = lambda *_: self._subscribed.set()
        self._watcher.on_message = self._on_message
        url = urlsplit(broker_url)
        for each in (self._device, self._watcher):
            each.connect(url.hostname or "127.0.0.1", url.port or 1883)
            each.loop_start()
        if not self._subscribed.wait(SUBSCRIBED_S):
            raise TimeoutError(f"{broker_url} did not confirm the subscriptions within {SUBSCRIBED_S:g} s")

    def send_frame(self, recording: str, frame: bytes) -> None:
        """One frame of sound, from the microphone `recording`."""
        self.speech.into(f"audio/{recording}", time.monotonic())
        self._device.publish(f"audio/{recording}", frame, qos=1)

    def send_synthetic(self, reading: dict[str, float]) -> None:
        """One reading of the made-up machine."""
        self.anomaly.into(SYNTHETIC, time.monotonic())
        self._device.publish(SYNTHETIC, json.dumps(reading), qos=1)

    def close(self) -> None:
        """Leave the broker and end paho's threads."""
        for each in (self._device, self._watcher):
            each.disconnect()
            each.loop_stop()

    def _on_message(self, watcher: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        at_s = time.monotonic()
        if isinstance(peer := watcher.socket(), socket.socket):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # for the same reason; it does not last (tcp(7))
        kind, _, lane = message.topic.partition("/")
        if message.topic == LIVE:
            self.anomaly.into(LIVE, at_s)
            self._on_reading(json.loads(message.payload))
        elif kind == "verdicts":
            self.anomaly.out_of(lane, at_s)
        elif kind == "anomalies":
            self._on_anomalies(json.loads(message.payload))
        elif kind == "speech":
            self.speech.out_of(lane, at_s)
            self._on_speech(lane.removeprefix("audio/"), json.loads(message.payload))

    def _on_reading(self, reading: dict[str, Any]) -> None:
        """A live reading names the moment the timer fired: from there to here is the way of one event."""
        delay_s = (datetime.now(timezone.utc) - datetime.fromisoformat(reading["time"])).total_seconds()
        self.live.into(LIVE, 0.0)
        self.live.out_of(LIVE, delay_s)
        self.seen.reading = reading

    def _on_anomalies(self, found: list[dict[str, Any]]) -> None:
        self.seen.anomalies.extend(found)
        self.seen.spikes_found += sum(each["series"].startswith(SYNTHETIC) for each in found)

    def _on_speech(self, recording: str, answer: dict[str, Any]) -> None:
        probability = answer["labels"][0]["score"]
        hearing = self.seen.hearings.setdefault(recording, Hearing())
        hearing.frames += 1
        hearing.speech += probability >= HEARD_FROM
        self.seen.recording = recording
        self.seen.probabilities.append(probability)
