"""The event a handler sees: decoded straight from the worker channel, then finished (size, parsed body) before the call.

The fields up to `last_in_batch` are those of `edgehost.event.Event` in the same ORDER: both decode the same array. Knows nothing
of how events travel or who handles them.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

from msgspec import Struct

from edgehost.event import EPOCH, Origin
from edgehost.sdk import cloudevent
from edgehost.sdk.jsonable import JSON, parse_json

CLOUDEVENT = "application/cloudevents+json"


class Offset(int):
    """An event's offset that remembers which call it belongs to.

    `QualifiedOffset` of nuclio-sdk copies topic, partition and offset out of an event and nothing else, and on MQTT those three
    are the same for every message of a topic: the call number that an acknowledgement needs can only ride on one of them.
    """

    call: int


class Event(Struct, array_like=True, dict=True, weakref=True, eq=False):
    """One event, as in the handler contract ("event"). Every attribute may be set; more attributes may be added.

    `body` is bytes, a parsed JSON value, or (`body = "view"`, large bodies only) a read-only memoryview that ends with the call.
    """

    body: Any = b""
    content_type: str = ""
    id: str = ""
    timestamp: datetime = EPOCH
    """When the event was received; timezone-aware, UTC."""
    trigger: Origin = Origin()
    path: str = "/"
    headers: dict[str, str] = {}
    method: str = ""
    url: str = ""
    fields: dict[str, str] = {}
    topic: str = ""
    _offset: int = 0
    shard_id: int = -1
    num_shards: int = 0
    type: str = ""
    type_version: str = ""
    version: str = ""
    last_in_batch: bool = False
    size: int = -1
    """Bytes of the raw body; not on the wire, `finish` sets it."""
    _call: int = 0
    """The number the worker gave the call; explicit acknowledgements name it."""

    @classmethod
    def of(
        cls,
        body: Any = None,
        content_type: str | None = None,
        trigger: Any = None,
        fields: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        _id: str | None = None,
        method: str | None = None,
        path: str | None = None,
        size: int | None = None,
        timestamp: Any = None,
        url: str | None = None,
        shard_id: int | None = None,
        num_shards: int | None = None,
        _type: str | None = None,
        type_version: str | None = None,
        version: str | None = None,
        last_in_batch: bool | None = None,
        offset: int | None = None,
        topic: str | None = None,
    ) -> Event:
        """An event of a function's own making, from the arguments `nuclio_sdk.Event` takes; reached as `context.Event(...)`."""
        return cls(
            b"" if body is None else body,
            content_type or "",
            _id or "",
            timestamp or EPOCH,
            Origin(trigger.kind, trigger.name) if trigger else Origin(),
            path or "/",
            headers or {},
            method or "",
            url or "",
            fields or {},
            topic or "",
            offset or 0,
            -1 if shard_id is None else shard_id,
            num_shards or 0,
            _type or "",
            type_version or "",
            version or "",
            last_in_batch or False,
            _length(body) if size is None else size,
        )

    @property
    def offset(self) -> int:
        """The event's place in its stream or shard."""
        if not isinstance(self._offset, int):  # a handler may set it to anything
            return self._offset
        offset = Offset(self._offset)
        offset.call = self._call
        return offset

    @offset.setter
    def offset(self, value: int) -> None:
        self._offset = value

    def get_header(self, name: str) -> str | None:
        """The value of header `name`, whatever its case; None if there is none."""
        headers = self.headers
        if name in headers:
            return headers[name]
        wanted = name.lower()
        for key, value in headers.items():
            if key.lower() == wanted:
                return value
        return None

    def to_json(self) -> str:
        """Every public attribute as one JSON object: a bytes body in base64, other values JSON lacks as `str`."""
        values = {name: getattr(self, name) for name in _JSON_FIELDS}
        values.update((name, value) for name, value in vars(self).items() if not name.startswith("_"))
        values["trigger"] = {"kind": self.trigger.kind, "name": self.trigger.name}
        if isinstance(self.body, (bytes, bytearray, memoryview)):
            values["body"] = base64.b64encode(self.body).decode("ascii")
        return json.dumps(values, default=str)

    def compile_explicit_ack_message(self) -> dict[str, Any]:
        """What `context.platform.explicit_ack` sends for this event."""
        attributes = {"topic": self.topic or self.path, "partition": self.shard_id, "offset": self.offset}
        return {"kind": "streamMessageAck", "attributes": attributes}

    def __repr__(self) -> str:
        return self.to_json()


_JSON_FIELDS = (
    *("body", "content_type", "trigger", "fields", "headers", "id", "method", "path", "size", "timestamp", "url"),
    *("shard_id", "num_shards", "type", "type_version", "version", "last_in_batch", "offset", "topic"),
)


def finish(event: Event) -> Event:
    """Make a decoded event ready for its handler: `size`, and the body parsed where the contract says so. Gives the same one."""
    body = event.body
    event.size = len(body)
    content_type = event.content_type
    if content_type:
        if content_type == JSON:
            event.body = parse_json(body)
        elif content_type.startswith(CLOUDEVENT):
            cloudevent.unwrap(event)
    headers = event.headers
    if headers and ("Ce-Specversion" in headers or "specversion" in headers):
        cloudevent.take_headers(event)
    return event


def _length(body: Any) -> int:
    if isinstance(body, str):
        return len(body.encode("utf-8", "surrogatepass"))
    return len(body) if isinstance(body, (bytes, bytearray, memoryview)) else 0
