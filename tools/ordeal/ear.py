"""Listens at the far end as any subscriber would: how often each answer came. No proof: the broker loses and repeats too."""

from __future__ import annotations

from collections import Counter
from typing import Any

import paho.mqtt.client as mqtt

from tools.ordeal.ledger import Answer
from tools.ordeal.messages import named
from tools.ordeal.sender import client, connect, disconnect


class Ear:
    """A subscriber of QoS 0: what has to be kept for it would make a broker slow that saves at every change."""

    def __init__(self, port: int) -> None:
        self.heard: Counter[Answer] = Counter()
        self._port = port
        self._client = client("ear")
        self._client.on_message = self._heard
        self._client.on_connect = self._connected

    def start(self) -> None:
        """Connect and subscribe."""
        connect(self._client, self._port)

    def close(self) -> None:
        """End the connection."""
        disconnect(self._client)

    def _connected(self, one: mqtt.Client, *_: Any) -> None:
        one.subscribe([("out/#", 0), ("side/#", 0)])

    def _heard(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        found = named(bytes(message.payload))
        if found is not None:
            self.heard[(message.topic, found[1])] += 1
