"""The one session with a broker: the loop that connects again, and the doors to what goes out and what comes in.

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
from collections.abc import Callable, Container
from typing import Any, Literal

from paho.mqtt.reasoncodes import ReasonCode

from edgehost.backoff import Backoff
from edgehost.config import Broker
from edgehost.errors import TriggerError
from edgehost.mqtt.connection import Connection
from edgehost.mqtt.endpoint import client_id, in_thread, parse_url
from edgehost.mqtt.inbox import Handler, Inbox, Subscription, ignore
from edgehost.mqtt.packets import PUBLISH, PUBREL, MalformedPacketError, Message, decode_acknowledgement, decode_publish
from edgehost.mqtt.paho_client import Opened, Will
from edgehost.mqtt.publisher import Publisher
from edgehost.mqtt.reasons import trouble

State = Literal["connecting", "connected", "down"]

_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 60.0
# A shorter connection does not count as success: two agents with one client id would throw each other out at full speed.
_STEADY_S = 10.0


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
        """`owed` and `spoken_for`: see Publisher."""
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
        self._publisher = Publisher(broker, log, owed, spoken_for, self._moved)
        self.publish, self.recall = self._publisher.publish, self._publisher.recall
        self._inbox = Inbox(broker, log)
        self._connection: Connection | None = None
        self._warned = ""
        self._closed = False
        self._crowded: set[object] = set()
        """Who has no room for messages."""
        self._connected_at = 0.0
        self._loop = asyncio.get_running_loop()
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
        while self._unsent and self._loop.time() < deadline:  # noqa: ASYNC110  once in a life: not worth an event
            await asyncio.sleep(0.02)
        self._closed = True
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._connection is not None:
            self._connection.close()
        self.lost("closed")
        self._publisher.close()

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

    @property
    def _unsent(self) -> bool:
        connection = self._connection
        return connection is not None and bool(self._publisher.unsent or connection.buffered_bytes)

    def _moved(self) -> None:
        """A message of ours has begun to wait for its acknowledgement, or has it."""
        if self._crowded:
            self._read_or_not()

    def _read_or_not(self) -> None:
        connection = self._connection
        if connection is None:
            return
        awaits = self.state != "connected" or self._publisher.awaits or self._inbox.asking
        connection.read(bool(awaits) or not self._crowded)

    @property
    def unrouted(self) -> int:
        """How many messages came that no function subscribes to."""
        return self._inbox.unrouted

    # What a Connection tells (connection.Listener).

    def opened(self, grant: Opened) -> None:
        """CONNACK: take up the session again, or begin a new one if the broker has none."""
        connection = self._connection
        assert connection is not None
        self._connected_at = self._loop.time()
        self._publisher.opened(connection, grant)
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
        self._publisher.acknowledged(first & 0xF0, packet_id, reason)
        self._moved()

    def confirmed(self, packet_id: int, reasons: list[ReasonCode]) -> None:
        """A SUBACK or UNSUBACK."""
        self._inbox.confirmed(packet_id, reasons)

    def drained(self) -> None:
        """There is room to write: send what waits."""
        self._publisher.drained()

    def lost(self, reason: str) -> None:
        """The connection is over, or never came to be."""
        soon = self._loop.time() - self._connected_at < _STEADY_S
        self._publisher.lost(soon)
        if self.state == "connected" and soon and not self._closed:
            # Not every broker says why it threw us out.
            reason += f"; if that repeats, another client may have come with the same client id, {self._client_id}"
        self._connection = None
        self._inbox.lost(self._publisher.ids.free)
        self._set_state("down", reason)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # Inside.

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
        connection = Connection(self.broker, self._client_id, self._publisher.ids, self, self._will)
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
                    self._publisher.tick(1.0)
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
