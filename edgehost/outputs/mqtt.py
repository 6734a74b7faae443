"""A function's answers as MQTT messages. One MqttOutput for each `[outputs.NAME]` of kind `mqtt`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from datetime import datetime, timezone
from string import Formatter
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from edgehost.errors import TriggerError
from edgehost.event import Event, Response
from edgehost.mqtt import Session, State
from edgehost.mqtt.topics import topic_problem
from edgehost.parcel import Parcel, Slip
from edgehost.plugin import OutputHost

_FIELDS = ("topic", "id", "function", "trigger", "output")


class MqttOutputSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[outputs.NAME]` with `kind = "mqtt"`."""

    topic: str
    """Where to publish; may hold {topic} (the event's path), {id}, {function}, {trigger} and {output}. Empty: the event's own
    path, for `context.publish`; an answer would go back to where its event came from."""
    broker: str = "default"
    """A name from `[brokers]` of edgehost.toml, or a URL."""
    qos: Literal[0, 1, 2] = 0
    retain: bool = False
    expiry_s: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)] | None = None
    """How long the broker keeps it for a subscriber that is away (MQTT 5, 3.3.2.3.3)."""

    def __post_init__(self) -> None:
        try:
            pieces = list(Formatter().parse(self.topic))
        except ValueError as error:
            raise ValueError(f"topic: {self.topic!r} is not a topic with {{places}}: {error}") from None
        for literal, field, form, conversion in pieces:
            if literal and (problem := topic_problem(literal)):
                raise ValueError(f"topic: {self.topic!r}: {problem}")
            if field is not None and (field not in _FIELDS or form or conversion):
                known = ", ".join(f"{{{name}}}" for name in _FIELDS)
                raise ValueError(f"topic: {{{field}}} in {self.topic!r} stands for nothing; use {known}")


class MqttOutput:
    """See edgehost/plugin.py, Output."""

    Settings: ClassVar[type[Struct]] = MqttOutputSettings
    window: ClassVar[int] = 10
    """Half of what mosquitto takes at once: the other half is for what is new."""

    def __init__(self, settings: MqttOutputSettings, host: OutputHost) -> None:
        self._settings = settings
        self._host = host
        self._session: Session = host.broker(settings.broker)
        self.numbered = settings.qos == 2
        self.receiver = f"mqtt {self._session.name} {self._session.broker.url}"
        self._tell: Callable[[], None] | None = None
        self._fixed = settings.topic if "{" not in settings.topic and "}" not in settings.topic else ""

    async def start(self) -> None:
        """The session connects by itself, and messages wait for it."""
        self._session.on_state.append(self._on_state)

    @property
    def reachable(self) -> bool:
        """Whether the broker is there."""
        return self._session.state == "connected"

    def on_reachable(self, tell: Callable[[], None]) -> None:
        """See edgehost/plugin.py, Forwarding."""
        self._tell = tell

    def send(self, event: Event, response: Response) -> asyncio.Future[None] | None:
        """None when the message is with the connection (QoS 0), else done when the broker has acknowledged it (QoS 1, 2)."""
        settings = self._settings
        sent = self._session.publish(
            self._fixed or self._topic(event),
            response.body,
            settings.qos,
            settings.retain,
            response.content_type,
            _headers(response) if response.code else response.headers,
            expiry_s=settings.expiry_s,
        )
        if not sent.done():
            return sent
        sent.result()
        return None

    def pack(self, event: Event, response: Response) -> Parcel:
        """The message, with its topic settled."""
        topic = self._fixed or self._topic(event)
        return Parcel(topic, bytes(response.body), response.content_type, _headers(response), published=time.time())

    def post(self, parcel: Parcel, late: bool, slip: Slip | None = None) -> asyncio.Future[None]:
        """At QoS 1 at the least: only then it is known when the broker has it. MQTT 5 shows `id`, and `late` with `published`.

        What has a number leaves at QoS 2, whatever the manifest says now: its exchange may have begun.
        """
        settings = self._settings
        headers = {**({"id": parcel.id} if parcel.id else {}), **parcel.headers}
        if late:
            published = datetime.fromtimestamp(parcel.published, timezone.utc).isoformat(timespec="milliseconds")
            headers |= {"late": "true", "published": published}
        return self._session.publish(
            parcel.to,
            parcel.body,
            max(1, settings.qos) if slip is None else 2,
            settings.retain,
            parcel.content_type,
            headers,
            expiry_s=settings.expiry_s,
            slip=slip,
        )

    def recall(self, waits: Collection[asyncio.Future[None]], begun: bool) -> None:
        """See edgehost/plugin.py, Forwarding."""
        self._session.recall(waits, begun)

    async def stop(self) -> None:
        """What was published is the session's."""
        self._session.on_state.remove(self._on_state)

    def _on_state(self, _state: State, _reason: str) -> None:
        if self._tell is not None:
            self._tell()

    def _topic(self, event: Event) -> str:
        if not self._settings.topic:
            if event.path in ("", "/"):
                raise TriggerError(
                    f"output {self._host.name!r} publishes to the event's own path and this one has none; "
                    "give it a topic, or publish with path = 'some/topic'"
                )
            return event.path
        host = self._host
        return self._settings.topic.format(
            topic=event.path, id=event.id, function=host.function_name, trigger=event.trigger.name, output=host.name
        )


def _headers(response: Response) -> dict[str, str]:
    """The user properties of an answer; a failure says what it is."""
    return {**response.headers, "status": str(response.status), "code": response.code} if response.code else response.headers
