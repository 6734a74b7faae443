"""A worker's surroundings without a worker: a link that remembers, and specs, events and oracle answers made in one line."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import msgspec
import nuclio_sdk
import nuclio_sdk.json_encoder
import pytest

from edgehost.engine.spec import WorkerSpec
from edgehost.event import Event as WireEvent
from edgehost.event import Origin
from edgehost.event import Response as WireResponse
from edgehost.sdk.event import Event

RECEIVED_AT = datetime(2026, 11, 23, 12, 30, 45, 123456, tzinfo=timezone.utc)


class FakeLink:
    """An edgehost.sdk.link.Link that keeps what it is given, and answers calls with `answer`."""

    def __init__(self) -> None:
        self.secrets: dict[str, str | bytes] = {}
        self.logs: list[tuple[str, str, dict[str, Any]]] = []
        self.calls: list[tuple[str, WireEvent, float | None]] = []
        self.published: list[tuple[str, WireEvent]] = []
        self.acknowledged: list[int] = []
        self.answer: Callable[[WireEvent], WireResponse] = lambda event: WireResponse(body=event.body)

    def log(self, level: str, message: str, fields: dict[str, Any], event_id: str | None = None) -> None:
        msgspec.msgpack.encode([level, message, fields])  # what a real link does first, and what must not fail
        self.logs.append((level, message, fields))

    def call(self, function: str, event: WireEvent, timeout_s: float | None) -> WireResponse:
        self.calls.append((function, msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=WireEvent), timeout_s))
        return self.answer(event)

    def publish(self, output: str, event: WireEvent) -> None:
        self.published.append((output, event))

    def acknowledge(self, call: int) -> None:
        self.acknowledged.append(call)

    @property
    def lines(self) -> list[tuple[str, str]]:
        return [(level, message) for level, message, _ in self.logs]


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def make_spec() -> Callable[..., WorkerSpec]:
    def make(**changes: Any) -> WorkerSpec:
        values: dict[str, Any] = {
            "function": "thermo",
            "version": "1.2.3",
            "description": "reads a thermometer",
            "runtime": "python",
            "handler": "main:handler",
            "folder": "/nowhere",
            "worker_id": 3,
            "concurrency": 1,
            "timeout_s": 60.0,
            "body": "bytes",
            "on_loop": False,
            "debug": False,
            "log_level": "debug",
            "env": {},
            "triggers": (Origin("mqtt", "temperatures"),),
            "outputs": ("alarms",),
        }
        return WorkerSpec(**{**values, **changes})

    return make


@pytest.fixture
def deliver() -> Callable[..., Event]:
    """The event a worker decodes when a trigger made one with these fields."""

    def decode(**fields: Any) -> Event:
        fields.setdefault("timestamp", RECEIVED_AT)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(WireEvent(**fields)), type=Event)

    return decode


def as_tuple(answer: dict[str, Any]) -> tuple[int, str, dict[str, str], bytes]:
    body = answer["body"]
    raw = base64.b64decode(body) if answer["body_encoding"] == "base64" else body.encode()
    return answer["status_code"], answer["content_type"], answer["headers"], raw


@pytest.fixture
def oracle() -> Callable[[Any], tuple[int, str, dict[str, str], bytes]]:
    """Status, content type, headers and body that nuclio-sdk makes of a return value."""
    encode = nuclio_sdk.json_encoder.Encoder().encode
    return lambda value: as_tuple(nuclio_sdk.Response.from_entrypoint_output(encode, value))
