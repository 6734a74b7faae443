"""A function's answers as MQTT messages. One MqttOutput for each `[outputs.NAME]` of kind `mqtt`."""

from __future__ import annotations

import asyncio
from string import Formatter
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from edgehost.errors import TriggerError
from edgehost.event import Event, Response
from edgehost.mqtt import Session
from edgehost.mqtt.topics import topic_problem
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

    def __init__(self, settings: MqttOutputSettings, host: OutputHost) -> None:
        self._settings = settings
        self._host = host
        self._session: Session = host.broker(settings.broker)
        self._fixed = settings.topic if "{" not in settings.topic and "}" not in settings.topic else ""

    async def start(self) -> None:
        """Nothing to begin: the session connects by itself, and messages wait for it."""

    def send(self, event: Event, response: Response) -> asyncio.Future[None] | None:
        """None when the message is with the connection (QoS 0), else done when the broker has acknowledged it (QoS 1, 2)."""
        settings = self._settings
        headers = response.headers
        if response.failed:
            headers = {**headers, "status": str(response.status), "code": response.code}
        sent = self._session.publish(
            self._fixed or self._topic(event),
            response.body,
            settings.qos,
            settings.retain,
            response.content_type,
            headers,
            expiry_s=settings.expiry_s,
        )
        if not sent.done():
            return sent
        sent.result()
        return None

    async def stop(self) -> None:
        """Nothing to end: what was published is the session's."""

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
