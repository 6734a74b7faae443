"""What goes out on a session: messages and their exchanges, whether there is a connection or not.

    published, connected      sent, as far as the broker has room
    published, away           waits, `max_queued` of them
    connection lost           exchanges stay open, and go on with the next one of the same session
    session lost              what the broker had not taken begins anew
    closed                    what has not arrived fails with AwayError

exchanges.py has the rules of one exchange, capacity.py of how many the broker takes at once. Knows the current connection only
while there is one; never connects, never receives a message.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Collection, Container, Mapping
from functools import partial
from typing import Any

from edgehost.config import Broker
from edgehost.errors import AwayError, TriggerError
from edgehost.mqtt.capacity import Capacity
from edgehost.mqtt.connection import Connection
from edgehost.mqtt.exchanges import Outgoing, PacketIds, Sender
from edgehost.mqtt.packets import (
    FAILURE,
    NO_PROPERTIES,
    PUBREC,
    PUBREL,
    encode_acknowledgement,
    encode_properties,
    encode_publish,
    encode_text,
)
from edgehost.mqtt.paho_client import Opened
from edgehost.mqtt.reasons import FOR_NOW, QUOTA_EXCEEDED, explain
from edgehost.mqtt.topics import topic_problem
from edgehost.parcel import NUMBERS, Slip

_CACHED_TOPICS = 4096
_OWED_S = 10.0
"""How long new messages leave room for what an earlier run has left open: by then its outputs are there, or gone."""
_TELL_OVER_S = 600.0


class Publisher:
    """A session's. Made in the loop it lives in."""

    def __init__(
        self,
        broker: Broker,
        log: logging.Logger | logging.LoggerAdapter[Any],
        owed: int,
        spoken_for: Container[int],
        queued: Callable[[], None],
    ) -> None:
        """`owed`: how many exchanges an earlier run may have left open. The broker counts them, so they come first.

        `spoken_for`: the numbers (edgehost/parcel.py) of exchanges that are not over. `queued()` is called when a message may
        wait for an acknowledgement.
        """
        self.ids = PacketIds(random.randrange(PacketIds.MOST))
        self._broker = broker
        self._log = log
        self._version_5 = broker.version == "5"
        self._queued = queued
        self._sender = Sender(self.ids, broker.max_queued)
        self._sender.owed = owed
        self._capacity = Capacity()
        self._spoken_for = spoken_for
        self._miscounted = False
        """The broker has refused a message for what it counts as open, and has not been told since what is over."""
        self._told_over_at = -math.inf
        self._connection: Connection | None = None
        self._grant = Opened()
        self._topic_fields: dict[str, bytes] = {}
        self._forgotten = False
        """The broker has once said that it knows nothing of an earlier run."""
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._sent: asyncio.Future[None] = self._loop.create_future()
        self._sent.set_result(None)

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
        correlation_data: bytes | None = None,
        response_topic: str = "",
        expiry_s: int | None = None,
        slip: Slip | None = None,
    ) -> asyncio.Future[None]:
        """Publish; the future ends when the message is with the connection (QoS 0) or acknowledged by the broker (QoS 1, 2).

        While the broker is away or slow up to `max_queued` messages wait. The future fails with TriggerError when no more fit,
        when the broker does not take such a message, or when the session closes first. 3.1.1 has no room for content
        type, headers, correlation, response topic and expiry. With a slip (QoS 2 alone) the exchange is that of its number.
        """
        try:
            topic_field = self._topic_fields.get(topic) or self._topic_field(topic)
            properties = b""
            if self._version_5:
                properties = NO_PROPERTIES
                if content_type or headers or correlation_data is not None or response_topic or expiry_s is not None:
                    properties = encode_properties(content_type, headers, correlation_data, response_topic, expiry_s)
        except ValueError as error:
            return self._failed(f"cannot publish to {topic!r}: {error}")
        grant, connection = self._grant, self._connection
        if slip is not None and slip.released:
            return self._finish(topic, topic_field, slip)
        size_bytes = len(topic_field) + len(properties) + len(payload) + 7
        if size_bytes > grant.largest_packet_bytes or qos > grant.maximum_qos:
            return self._failed(
                f"cannot publish to {topic!r}: {size_bytes} bytes at QoS {qos}; the broker at {self._broker.url} takes "
                f"{grant.largest_packet_bytes} bytes at QoS {grant.maximum_qos} at most"
            )
        if not qos and connection is not None and connection.room and not self._sender.waiting:
            connection.write(encode_publish(topic_field, payload, properties, 0, retain))
            return self._sent
        return self._queue(topic, Outgoing(topic_field, payload, properties, qos, retain, self._loop.create_future(), slip))

    def recall(self, waits: Collection[asyncio.Future[None]], begun: bool) -> None:
        """Have those of these futures fail with AwayError whose message has not been sent; if `begun`, or not been taken."""
        self._sender.recall(waits, begun, AwayError(f"the broker at {self._broker.url} is away"))

    @property
    def awaits(self) -> bool:
        """Whether the broker owes us an acknowledgement."""
        return bool(self._sender.in_flight)

    @property
    def unsent(self) -> bool:
        """Whether something has not arrived, as far as it is known."""
        return bool(self._sender.waiting or self._sender.in_flight)

    def opened(self, connection: Connection, grant: Opened) -> None:
        """A connection is up: take up what is open, or begin anew if the broker has forgotten the session."""
        self._connection, self._grant = connection, grant
        self._capacity.opened(grant.receive_maximum, grant.session_present)
        self._sender.window = self._capacity.now
        if not grant.session_present:
            self._forgotten, self._miscounted = True, False
            self._sender.restart()
            return
        self._sender.owed = min(self._sender.owed, grant.receive_maximum)
        if self._sender.owed:
            self._loop.call_later(_OWED_S, self._forgive)
        self._tell_over(connection)
        for packet in self._sender.resume():
            connection.write(packet)

    def acknowledged(self, kind: int, packet_id: int, reason: int) -> None:
        """The broker said PUBACK, PUBREC or PUBCOMP."""
        connection = self._connection
        assert connection is not None
        if kind == PUBREC and reason < FAILURE and (taken := self._sender.taken(packet_id)) is not None:
            assert taken.slip is not None
            taken.slip.release(partial(self._release, taken))
            return
        answer, message = self._sender.acknowledged(kind, packet_id, reason)
        if answer:
            connection.write(answer)
        if message is not None:
            message.settle(self._refusal(reason) if reason >= FAILURE else None)
            if reason == QUOTA_EXCEEDED and self._grant.session_present:
                self._miscounted = True
                if not self._sender.under_way:
                    self._tell_over(connection)
            if self._sender.more:
                self.drained()

    def drained(self) -> None:
        """There is room to write: send what waits."""
        connection = self._connection
        while connection is not None and connection.room:
            packet = self._sender.next()
            if packet is None:
                return
            connection.write(packet)

    def lost(self, soon: bool) -> None:
        """The connection is over; `soon`: it had hardly begun."""
        if self._connection is not None:
            self._capacity.lost(self._sender.under_way, soon)
        self._connection = None

    def tick(self, seconds: float) -> None:
        """The connection has been up for so long since the last time."""
        self._capacity.tick(seconds)
        self._sender.window = self._capacity.now

    def close(self) -> None:
        """The session is over: what has not arrived fails, and so does all that is published from now on."""
        self._closed = True
        self._sender.fail(AwayError(f"the session with {self._broker.url} was closed before the message was sent"))

    def _refusal(self, reason: int) -> TriggerError:
        kind = AwayError if reason in FOR_NOW else TriggerError
        return kind(f"the broker at {self._broker.url} refused a message: {explain(reason)}")

    def _tell_over(self, connection: Connection) -> None:
        """PUBREL for every exchange of QoS 2 that is none of ours any more.

        A run that was killed may have left some open that nobody knows of, where each takes a place of the broker's window for as
        long as the session lasts. One it does not know the broker just answers (MQTT 5, 4.3.3).
        """
        now = self._loop.time()
        if not self._miscounted or now - self._told_over_at < _TELL_OVER_S:
            return
        self._miscounted, self._told_over_at = False, now
        over = [number for number in NUMBERS if number not in self._spoken_for]
        if over:
            self._log.warning("the broker at %s counts messages as under way that are none; it is told so", self._broker.url)
            connection.write(b"".join(encode_acknowledgement(PUBREL, number) for number in over))

    def _forgive(self) -> None:
        """What has not come by now was another broker's, or has no output any more."""
        self._sender.owed = 0
        self.drained()

    def _topic_field(self, topic: str) -> bytes:
        """The topic as it goes into a packet, remembered: topics repeat."""
        if problem := topic_problem(topic):
            raise ValueError(problem)
        if len(self._topic_fields) >= _CACHED_TOPICS:
            self._topic_fields.clear()
        field = self._topic_fields[topic] = encode_text(topic)
        return field

    def _queue(self, topic: str, message: Outgoing) -> asyncio.Future[None]:
        """Let a message wait its turn, which may be now."""
        if self._closed:
            message.settle(AwayError(f"cannot publish to {topic!r}: the session with {self._broker.url} is closed"))
        elif self._sender.full:
            state = "away" if self._connection is None else "connected"
            message.settle(
                AwayError(
                    f"cannot publish to {topic!r}: {self._broker.max_queued} messages wait already for the broker at "
                    f"{self._broker.url} (it is {state}); see max_queued in [brokers.NAME]"
                )
            )
        else:
            self._sender.waiting.append(message)
            self.drained()
            self._queued()
        return message.future

    def _finish(self, topic: str, topic_field: bytes, slip: Slip) -> asyncio.Future[None]:
        """An earlier run got so far that the broker has it: the rest of the exchange, if the broker knows of it still."""
        if self._forgotten:
            return self._sent
        return self._queue(topic, Outgoing(topic_field, b"", b"", 2, False, self._loop.create_future(), slip))

    def _release(self, message: Outgoing) -> None:
        """It is written down that the broker has it."""
        packet = self._sender.release(message)
        if packet and self._connection is not None:
            self._connection.write(packet)

    def _failed(self, text: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        future.set_exception(TriggerError(text))
        return future
