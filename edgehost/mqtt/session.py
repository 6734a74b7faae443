"""The one session with a broker: messages out, the loop that connects again, and the door to what comes in.

    state        event                                   next
    down         start, or the back-off is over          connecting
    connecting   CONNACK says yes                        connected
    connecting   refused, unreachable, no answer         down
    connected    the connection is lost                  down
    any          close                                   down, for good

Everything outlives a connection: subscriptions are asked for again when the broker has forgotten them, unfinished QoS 1 and 2
exchanges go on. Knows nothing of functions, events or manifests.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Container, Mapping
from functools import partial
from typing import Any, Literal

from paho.mqtt.reasoncodes import ReasonCode

from edgehost.backoff import Backoff
from edgehost.config import Broker
from edgehost.errors import AwayError, TriggerError
from edgehost.mqtt.capacity import Capacity
from edgehost.mqtt.connection import Connection
from edgehost.mqtt.endpoint import client_id, in_thread, parse_url
from edgehost.mqtt.exchanges import Outgoing, PacketIds, Sender
from edgehost.mqtt.inbox import Handler, Inbox, Subscription, ignore
from edgehost.mqtt.packets import (
    FAILURE,
    NO_PROPERTIES,
    PUBLISH,
    PUBREC,
    PUBREL,
    MalformedPacketError,
    Message,
    decode_acknowledgement,
    decode_publish,
    encode_acknowledgement,
    encode_properties,
    encode_publish,
    encode_text,
)
from edgehost.mqtt.paho_client import Opened, Will
from edgehost.mqtt.reasons import FOR_NOW, explain, trouble
from edgehost.mqtt.topics import topic_problem
from edgehost.parcel import NUMBERS, Slip

State = Literal["connecting", "connected", "down"]

_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 60.0
# A shorter connection does not count as success: two agents with one client id would throw each other out at full speed.
_STEADY_S = 10.0
_CACHED_TOPICS = 4096
_OWED_S = 10.0
_QUOTA_EXCEEDED = 0x97
_HARDLY_ANY = 2


class Session:
    """A session with one broker, named as in edgehost.toml. Made in the loop it lives in; all methods belong there."""

    def __init__(
        self,
        name: str,
        broker: Broker,
        log: logging.Logger | logging.LoggerAdapter[Any],
        will: Will | None = None,
        owed: int = 0,
        spoken_for: Container[int] = (),
    ) -> None:
        """`owed`: how many exchanges an earlier run may have left open. The broker counts them, so they come first.

        `spoken_for`: the numbers (edgehost/parcel.py) of exchanges that are not over.
        """
        parse_url(broker.url)  # a wrong URL is told where the session is made, not a second later
        self.name = name
        self.broker = broker
        self.state: State = "down"
        self.reason = ""
        """Why it is down, for people; "" when it is not, or has not been tried."""
        self.tried = False
        """False until the first attempt to connect has ended, either way."""
        self.on_state: list[Callable[[State, str], None]] = []
        """Called with state and reason whenever either changes."""
        self._log = log
        self._will = will
        self._version_5 = broker.version == "5"
        self._client_id = client_id(name, broker)
        self._ids = PacketIds(random.randrange(PacketIds.MOST))
        self._sender = Sender(self._ids, broker.max_queued)
        self._sender.owed = owed
        self._capacity = Capacity()
        self._spoken_for = spoken_for
        self._used_up = False
        """The broker says that we have as many exchanges open as there may be."""
        self._inbox = Inbox(broker, log)
        self._connection: Connection | None = None
        self._grant = Opened()
        self._topic_fields: dict[str, bytes] = {}
        self._forgotten = False
        """The broker has once said that it knows nothing of an earlier run."""
        self._warned = ""
        self._closed = False
        self._crowded: set[object] = set()
        """Who has no room for messages."""
        self._connected_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._sent: asyncio.Future[None] = self._loop.create_future()
        self._sent.set_result(None)
        self._task: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Begin to connect and return at once; `state` and `on_state` tell how it goes."""
        self._task = self._loop.create_task(self._stay_connected(), name=f"mqtt {self.name}")

    async def close(self, timeout_s: float = 5.0) -> None:
        """Send what waits for up to `timeout_s`, say DISCONNECT and end. What is still unsent then fails with TriggerError."""
        if self._task is None:
            return
        deadline = self._loop.time() + timeout_s
        while self._unsent() and self._loop.time() < deadline:  # noqa: ASYNC110  once in a life: not worth an event
            await asyncio.sleep(0.02)
        self._closed = True
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._connection is not None:
            self._connection.close()
        self.lost("closed")
        self._sender.fail(AwayError(f"the session with {self.broker.url} was closed before the message was sent"))

    def keep_subscriptions(self) -> None:
        """The agent is about to end: subscriptions closed from now on stay with the broker, for the next run."""
        self._inbox.keep = True

    @property
    def ending(self) -> bool:
        """True after `keep_subscriptions`."""
        return self._inbox.keep

    async def subscribe(
        self, filter_text: str, qos: int, handler: Handler, on_refused: Callable[[str], None] = ignore
    ) -> Subscription:
        """Have `handler` called for every message whose topic matches.

        While connected this returns when the broker has agreed; while down at once, and a later refusal goes to `on_refused`.
        TriggerError when `filter_text` is not a topic filter or the broker refuses it now.
        """
        return await self._inbox.subscribe(filter_text, qos, handler, on_refused)

    def ack(self, message: Message) -> None:
        """One subscriber is done with a message of QoS 1 or 2. Nothing happens at QoS 0, or when the broker has forgotten us."""
        self._inbox.ack(message)

    def give_back(self, message: Message) -> None:
        """Leave a message of QoS 1 or 2 with the broker: it comes again on the next connection, to this run or the next."""
        self._inbox.give_back(message)

    def pause(self, who: object) -> None:
        """Take no more messages from the broker until `who`, who gets them and has no room, calls `resume`.

        While a word of the broker is awaited (of a message of our own, a subscription), it is read for: nobody who waits for that
        would ever have room again. What comes before that word is handed over. Signs of life are not waited for: they come
        behind all that the broker has already sent, and mosquitto 2.0.11 sends far more than the Receive Maximum allows.
        """
        self._crowded.add(who)
        self._read_or_not()

    def resume(self, who: object) -> None:
        """There is room again."""
        if who in self._crowded:
            self._crowded.remove(who)
            self._read_or_not()

    def _read_or_not(self) -> None:
        connection = self._connection
        if connection is None:
            return
        awaits = self.state != "connected" or self._sender.in_flight or self._inbox.asking
        connection.read(bool(awaits) or not self._crowded)

    @property
    def unrouted(self) -> int:
        """How many messages came that no function subscribes to."""
        return self._inbox.unrouted

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
                f"cannot publish to {topic!r}: {size_bytes} bytes at QoS {qos}; the broker at {self.broker.url} takes "
                f"{grant.largest_packet_bytes} bytes at QoS {grant.maximum_qos} at most"
            )
        if not qos and connection is not None and connection.room and not self._sender.waiting and self.state == "connected":
            connection.write(encode_publish(topic_field, payload, properties, 0, retain))
            return self._sent
        return self._queue(topic, Outgoing(topic_field, payload, properties, qos, retain, self._loop.create_future(), slip))

    def recall(self, waits: Collection[asyncio.Future[None]], begun: bool) -> None:
        """Have those of these futures fail with AwayError whose message has not been sent; if `begun`, or not been taken."""
        self._sender.recall(waits, begun, AwayError(f"the broker at {self.broker.url} is away"))

    # What a Connection tells (connection.Listener).

    def opened(self, grant: Opened) -> None:
        """CONNACK: take up the session again, or begin a new one if the broker has none."""
        connection = self._connection
        assert connection is not None
        self._grant = grant
        self._capacity.opened(grant.receive_maximum, grant.session_present)
        self._sender.window = self._capacity.now
        if grant.session_present:
            self._sender.owed = min(self._sender.owed, grant.receive_maximum)
            if self._sender.owed:
                self._loop.call_later(_OWED_S, self._forgive)
            if self._used_up:
                connection.write(self._over())
            self._used_up = False
            for packet in self._sender.resume():
                connection.write(packet)
        else:
            self._forgotten = True
            self._sender.restart()
        self._connected_at = self._loop.time()
        self._inbox.opened(connection, grant)
        self._set_state("connected", "")
        # After the subscriptions have been asked for: what waits may be for ourselves.
        self._loop.call_soon(self.drained)
        self._read_or_not()

    def packet(self, first: int, buffer: bytes, start: int, end: int) -> None:
        """A packet of the PUBLISH family."""
        connection = self._connection
        assert connection is not None
        try:
            if first < PUBLISH + 16:
                self._inbox.received(decode_publish(buffer, first, start, end, self._version_5), connection)
                return
            packet_id, reason = decode_acknowledgement(buffer, start, end)
        except MalformedPacketError as error:
            connection.malformed(error)
            return
        if first & 0xF0 == PUBREL:
            connection.write(self._inbox.released(packet_id))
            return
        if first & 0xF0 == PUBREC and reason < FAILURE and (taken := self._sender.taken(packet_id)) is not None:
            assert taken.slip is not None
            taken.slip.release(partial(self._release, taken))
            return
        answer, message = self._sender.acknowledged(first & 0xF0, packet_id, reason)
        if answer:
            connection.write(answer)
        self._used_up |= reason == _QUOTA_EXCEEDED and self._capacity.now <= _HARDLY_ANY
        if message is not None:
            refused = f"the broker at {self.broker.url} refused a message: {explain(reason)}" if reason >= FAILURE else ""
            kind = AwayError if reason in FOR_NOW else TriggerError
            message.settle(kind(refused) if refused else None)
            if self._sender.more:
                self.drained()
        if self._crowded:
            self._read_or_not()

    def confirmed(self, packet_id: int, reasons: list[ReasonCode]) -> None:
        """A SUBACK or UNSUBACK."""
        self._inbox.confirmed(packet_id, reasons)

    def drained(self) -> None:
        """There is room to write: send what waits."""
        connection = self._connection
        while connection is not None and connection.room and self.state == "connected":
            packet = self._sender.next()
            if packet is None:
                return
            connection.write(packet)

    def lost(self, reason: str) -> None:
        """The connection is over, or never came to be."""
        soon = self._loop.time() - self._connected_at < _STEADY_S
        if self.state == "connected":
            self._capacity.lost(self._sender.under_way, soon)
        if self.state == "connected" and soon and not self._closed:
            # Not every broker says why it threw us out.
            reason += f"; if that repeats, another client may have come with the same client id, {self._client_id}"
        self._connection = None
        self._inbox.lost(self._ids.free)
        self._set_state("down", reason)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # Inside.

    def _over(self) -> bytes:
        """PUBREL for every exchange of QoS 2 that is none of ours any more. A broker that was killed may have gone back to some
        that were over, where each takes a place for ever; those it does not know it just answers (MQTT 5, 4.3.3).
        """
        self._log.warning("the broker at %s counts exchanges that are over; it is told so", self.broker.url)
        return b"".join(encode_acknowledgement(PUBREL, number) for number in NUMBERS if number not in self._spoken_for)

    def _forgive(self) -> None:
        """What has not come by now was another broker's, or has no output any more."""
        self._sender.owed = 0
        self.drained()

    async def _stay_connected(self) -> None:
        """The one loop that connects, and connects again."""
        backoff = Backoff(_FIRST_RETRY_S, _LAST_RETRY_S)
        while True:
            self._set_state("connecting", "")
            lived_s = await self._one_connection()
            if lived_s > _STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _one_connection(self) -> float:
        """From connecting to lost; the seconds it was up."""
        connection = Connection(self.broker, self._client_id, self._ids, self, self._will)
        ended = self._ended = self._loop.create_future()
        try:
            await in_thread(connection.open, self._loop)
        except asyncio.CancelledError:
            connection.give_up()
            raise
        except Exception as error:
            # Whatever a name server, a TLS library or paho may raise: none of it may end the loop that connects again.
            self.lost(str(error) if isinstance(error, TriggerError) else trouble(error, self.broker))
            return 0.0
        self._connection = connection
        connection.attach(self._loop)
        attached = self._loop.time()
        while not ended.done():
            await asyncio.wait([ended], timeout=1.0)
            up_s = self._loop.time() - attached
            if self.state == "connecting" and up_s > self.broker.connect_timeout_s:
                connection.give_up()
                self.lost(f"the broker at {self.broker.url} took the connection but does not answer; is it an MQTT broker?")
            elif not ended.done():
                connection.tick()
                if self.state == "connected" and up_s > _STEADY_S:
                    self._capacity.tick(1.0)
                    self._sender.window = self._capacity.now
                self._read_or_not()
        return self._loop.time() - attached

    def _set_state(self, state: State, reason: str) -> None:
        if (state, reason) == (self.state, self.reason):
            return
        self.state, self.reason = state, reason
        self.tried |= state == "connected" or bool(reason)
        if state == "connected":
            self._warned = ""
            self._log.info("connected to the broker at %s", self.broker.url)
        elif reason and not self._closed and reason != self._warned:
            self._warned = reason  # said once, however often it is tried in vain
            self._log.warning("%s", reason)
        for tell in tuple(self.on_state):
            tell(state, reason)

    def _unsent(self) -> bool:
        connection = self._connection
        if connection is None:
            return False
        return bool(self._sender.waiting or self._sender.in_flight or connection.buffered_bytes)

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
            message.settle(AwayError(f"cannot publish to {topic!r}: the session with {self.broker.url} is closed"))
        elif self._sender.full:
            message.settle(
                AwayError(
                    f"cannot publish to {topic!r}: {self.broker.max_queued} messages wait already for the broker at "
                    f"{self.broker.url} (it is {self.state}); see max_queued in [brokers.{self.name}]"
                )
            )
        else:
            self._sender.waiting.append(message)
            self.drained()
            if self._crowded:
                self._read_or_not()
        return message.future

    def _finish(self, topic: str, topic_field: bytes, slip: Slip) -> asyncio.Future[None]:
        """An earlier run got so far that the broker has it: the rest of the exchange, if the broker knows of it still."""
        if self._forgotten:
            return self._sent
        return self._queue(topic, Outgoing(topic_field, b"", b"", 2, False, self._loop.create_future(), slip))

    def _release(self, message: Outgoing) -> None:
        """It is written down that the broker has it."""
        packet = self._sender.release(message)
        if packet and self._connection is not None and self.state == "connected":
            self._connection.write(packet)

    def _failed(self, text: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        future.set_exception(TriggerError(text))
        return future
