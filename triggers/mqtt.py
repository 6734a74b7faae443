"""MQTT messages as events. One MqttTrigger for each `[triggers.NAME]` of kind `mqtt`.

The session (edgehost/mqtt) delivers messages; here each becomes an Event and goes to the function, `max_in_flight` at once:

    more than max_in_flight          waits here; QoS 0 is dropped beyond `max_waiting`
    _MOST of QoS 1 and 2 wait,
    or 16 MiB of them                nothing is taken from the broker until half of them have gone (Session.pause)
    answered, also with a failure    acknowledged (retries are over by then); the answer goes to the Response Topic, if any
    durable                          answered, and so acknowledged, once it is on disk; but one with a Response Topic when the
                                     function's answer is there
    stopped, not_ready, no_room      left unacknowledged, so the broker delivers it again
Knows nothing of queues, retries and workers, or of how a broker is reached.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime, timezone
from functools import partial
from itertools import permutations
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from edgehost.errors import TriggerError
from edgehost.event import Event, Response
from edgehost.intake import HELD_BYTES, NOT_HANDLED, TO_DISK, Dropping
from edgehost.manifest.model import Positive
from edgehost.mqtt import Message, Session, State, Subscription
from edgehost.mqtt.endpoint import parse_url
from edgehost.mqtt.topics import filter_problem, matches
from edgehost.plugin import TriggerHost

_CLOUD_EVENT = "application/cloudevents+json"
_CONNECT_S = 1.0
"""How long `start` waits for a session that is just connecting, so that a refusal is told where it belongs."""
_DRAIN_S = 10.0
_MOST = 1000
"""Messages of QoS 1 and 2 that may wait here. MQTT 5 brokers leave it at the Receive Maximum, others at whatever they please."""
_QOS_2 = (
    'qos = 2 gives "at least once" here, as 1 does: a message comes again after the agent was killed, and runs again; add '
    'dedupe = { by = "id" } and give messages the user property id, and each runs once'
)
_NO_ID = "dedupe: messages come that have nothing to know them by (no user property id, say); each of them is run"


class MqttSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[triggers.NAME]` with `kind = "mqtt"`."""

    topics: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Topic filters: `+` stands for one level, `#` at the end for all that follow."""
    qos: Literal[0, 1, 2] = 0
    broker: str = "default"
    """A name from `[brokers]` of edgehost.toml, or a URL."""
    max_in_flight: Positive = 64
    """Events the function gets before it has answered the first; 1 keeps them strictly in order."""
    group: str = ""
    """Share the messages with all who subscribe in the same group: each goes to one of them (MQTT 5, 4.8.2)."""
    response: bool = True
    """Publish the answer to a message's Response Topic, if it names one."""
    content_type: str = ""
    """For messages that do not name theirs; those of MQTT 3.1.1 never do."""
    max_waiting: Positive = 10_000
    """QoS 0 messages kept while the function is busy; at most 16 MiB of them."""
    overflow: Dropping = "drop_oldest"
    """Which QoS 0 message goes when one too many waits."""

    def __post_init__(self) -> None:
        for text in self.filters():
            if problem := filter_problem(text):
                raise ValueError(f"topics: {text!r} is not a topic filter: {problem}")
        for wide, narrow in permutations(self.topics, 2):
            if matches(wide, narrow):
                raise ValueError(f"topics: {wide!r} covers {narrow!r}, which would make two events of one message; remove one")
        if "://" in self.broker:
            try:
                parse_url(self.broker)
            except TriggerError as error:
                raise ValueError(f"broker: {error}") from None

    def filters(self) -> list[str]:
        """What is subscribed to."""
        return [f"$share/{self.group}/{topic}" if self.group else topic for topic in self.topics]


class MqttTrigger:
    """See edgehost/plugin.py, Trigger."""

    Settings: ClassVar[type[Struct]] = MqttSettings
    replies: ClassVar[bool] = False

    @staticmethod
    def source_id(event: Event) -> str:
        """The message's own id: its user property `id`, or that of a CloudEvent in its body. A packet id is nobody's for long."""
        return event.headers.get("id") or (cloud_id(event.body) if event.content_type.startswith(_CLOUD_EVENT) else "")

    def __init__(self, settings: MqttSettings, host: TriggerHost) -> None:
        self.dropped = 0
        """QoS 0 messages that found no room since the start."""
        self._settings = settings
        self._host = host
        self._session: Session = host.broker(settings.broker)
        self._url = self._session.broker.url
        self._subscriptions: list[Subscription] = []
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._owed = 0
        """How many of those that wait the broker waits for, too: QoS 1 and 2."""
        self._owed_bytes = 0
        self._paused = False
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._told_no_id = False
        self._overflowing = False
        self._stopping = False
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Subscribe. TriggerError when the broker refuses a filter; while it is away the trigger is degraded and waits."""
        if self._settings.qos == 2 and not self._host.dedupes:
            self._host.log.warning(_QOS_2)
        self._session.on_state.append(self._on_state)
        await self._settle()
        for text in self._settings.filters():
            self._subscriptions.append(
                await self._session.subscribe(text, self._settings.qos, self._on_message, self._on_refused)
            )
        self._on_state(self._session.state, self._session.reason)

    async def stop(self) -> None:
        """Unsubscribe, and wait for the answers of all that was taken. QoS 1 and 2 the agent's end leaves with the broker."""
        self._stopping = True
        if self._session.ending:
            self._session.pause(self)  # what the broker still sends would pile up: it keeps that for the next run
        else:
            self._session.resume(self)
        for subscription in self._subscriptions:
            await subscription.close()
        if self._on_state in self._session.on_state:
            self._session.on_state.remove(self._on_state)
        if self._session.ending:
            self._leave_waiting()
        await self._until_idle(_DRAIN_S if self._waiting else None)
        if self._waiting:
            self._leave_waiting()
            lost = len(self._waiting)
            while self._waiting:
                self._next()
            if lost:
                self._host.log.warning("%d QoS 0 messages were still waiting after %g s and are lost", lost, _DRAIN_S)
            await self._until_idle(None)

    async def _settle(self) -> None:
        """Wait until a session that was only just made is connected, or knows why it is not."""
        deadline = asyncio.get_running_loop().time() + _CONNECT_S
        while self._session.state != "connected" and (self._session.state == "connecting" or not self._session.tried):
            self._changed.clear()
            left_s = deadline - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(self._changed.wait(), max(0.0, left_s))
            except asyncio.TimeoutError:
                return

    async def _until_idle(self, timeout_s: float | None) -> None:
        while self._in_flight or self._waiting:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), timeout_s)
            except asyncio.TimeoutError:
                return

    def _leave_waiting(self) -> None:
        """The broker still has what is not acknowledged: it delivers those again."""
        for _ in range(len(self._waiting)):
            message = self._next()
            if message.qos:
                self._session.give_back(message)
            else:
                self._keep(message)

    def _on_state(self, state: State, reason: str) -> None:
        self._changed.set()
        if state == "connected" and self._subscriptions:
            self._host.report("running", f"{', '.join(self._settings.filters())} at {self._url}")
        elif state != "connected" and (reason or not self._session.tried):
            self._host.report("degraded", reason or f"still connecting to {self._url}")

    def _on_refused(self, reason: str) -> None:
        self._host.report("failed", reason)

    def _on_message(self, message: Message) -> None:
        if not self._waiting and self._may_go(message):
            self._submit(message)
        elif message.qos or self._room(len(message.payload)):
            self._keep(message)
            if not (self._paused or self._stopping) and (self._owed >= _MOST or self._owed_bytes >= HELD_BYTES):
                self._paused = True
                self._session.pause(self)

    def _may_go(self, message: Message) -> bool:
        """Whether the function has room for it, or, if it is durable, the way to the disk."""
        settings = self._settings
        durable = self._host.durable and not self._asks(message)
        most = max(settings.max_in_flight, TO_DISK) if durable else settings.max_in_flight
        return self._in_flight < most and self._in_flight_bytes < HELD_BYTES

    def _asks(self, message: Message) -> bool:
        return bool(message.response_topic) and self._settings.response

    def _keep(self, message: Message) -> None:
        """Let it wait."""
        self._waiting.append(message)
        self._waiting_bytes += len(message.payload)
        if message.qos:
            self._owed += 1
            self._owed_bytes += len(message.payload)

    def _next(self) -> Message:
        """The first of those that wait, which waits no more."""
        message = self._waiting.popleft()
        self._waiting_bytes -= len(message.payload)
        if message.qos:
            self._owed -= 1
            self._owed_bytes -= len(message.payload)
        if self._paused and self._owed <= _MOST // 2 and self._owed_bytes <= HELD_BYTES // 2:
            self._paused = False
            self._session.resume(self)
        return message

    def _submit(self, message: Message) -> None:
        self._in_flight += 1
        self._in_flight_bytes += len(message.payload)
        properties = message.user_properties
        event = Event(
            message.payload,
            message.content_type or self._settings.content_type,
            (properties and properties.get("id")) or str(message.packet_id),
            datetime.now(timezone.utc),
            self._host.origin,
            message.topic,
            properties,
            "",
            self._url,
        )
        hand_over = self._host.ask if self._asks(message) else self._host.submit
        hand_over(event).add_done_callback(partial(self._answered, message))
        if self._host.dedupes and not self._told_no_id and self._host.counts["no_id"]:
            self._told_no_id = True
            self._host.log.warning(_NO_ID)

    def _room(self, size_bytes: int) -> bool:
        """Make room for one more QoS 0 message, or say that there is none; either way what is lost is counted."""
        if len(self._waiting) < self._settings.max_waiting and self._waiting_bytes + size_bytes <= HELD_BYTES:
            return True
        self.dropped += 1
        if not self._overflowing:
            self._overflowing = True
            self._host.report("degraded", "messages come faster than the function answers; QoS 0 messages are dropped")
        oldest = next((message for message in self._waiting if not message.qos), None)
        if self._settings.overflow == "drop_newest" or oldest is None:
            return False
        self._waiting.remove(oldest)
        self._waiting_bytes -= len(oldest.payload)
        return True

    def _answered(self, message: Message, future: asyncio.Future[Response]) -> None:
        response = future.result()
        if self._asks(message):
            self._reply(message, response)
        else:
            self._done(message, response)

    def _reply(self, message: Message, response: Response) -> None:
        headers = {**response.headers, "status": str(response.status)}
        if response.failed:
            headers["code"] = response.code
        sent = self._session.publish(
            message.response_topic,
            response.body,
            message.qos,
            content_type=response.content_type,
            headers=headers,
            correlation_data=message.correlation_data,
        )
        sent.add_done_callback(partial(self._replied, message, response))

    def _replied(self, message: Message, response: Response, sent: asyncio.Future[None]) -> None:
        if not sent.cancelled() and (error := sent.exception()) is not None:
            self._host.log.error("the answer to a message on %r is lost: %s", message.topic, error)
        self._done(message, response)

    def _done(self, message: Message, response: Response) -> None:
        """Acknowledge, and take the next one."""
        if message.qos:
            if response.code in NOT_HANDLED:
                self._session.give_back(message)
            else:
                self._session.ack(message)
        self._in_flight -= 1
        self._in_flight_bytes -= len(message.payload)
        while self._waiting and self._may_go(self._waiting[0]):
            self._submit(self._next())
        if not self._in_flight:
            self._rest()

    def _rest(self) -> None:
        if self._overflowing:
            self._overflowing = False
            if self._session.state == "connected":  # a broker that has gone meanwhile is the worse news
                self._host.report("running", f"{self.dropped} QoS 0 messages dropped since the start")
        if self._stopping:
            self._idle.set()


class _CloudEvent(Struct):
    """What tells one CloudEvent from another (CloudEvents 1.0, 3.1.1)."""

    id: str = ""
    source: str = ""


def cloud_id(body: bytes) -> str:
    """The id of a CloudEvent in JSON, with its source: together they are unique. "" if there is none."""
    try:
        found = msgspec.json.decode(body, type=_CloudEvent)
    except msgspec.MsgspecError:
        return ""
    return f"{found.source} {found.id}" if found.id else ""
