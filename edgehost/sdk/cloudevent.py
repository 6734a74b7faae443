"""CloudEvents in structured mode: one JSON object that holds both an event's attributes and its data.

Reads the names of CloudEvents 1.0 and of 0.1, which Nuclio's processor understands too. An envelope that cannot be read stays
what it is: the body of an ordinary event.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from edgehost.sdk.event import JSON, Event, parse_json


def unwrap(event: Event) -> None:
    """Put the envelope's attributes and data in the place of the event's own. `size` stays that of the raw body."""
    envelope = parse_json(event.body)
    if not isinstance(envelope, dict):
        return

    def text(*names: str) -> str:
        return next((str(envelope[name]) for name in names if envelope.get(name) is not None), "")

    event.id = text("id", "eventID") or event.id
    event.type = text("type", "eventType")
    event.type_version = text("eventTypeVersion")
    event.version = text("specversion", "cloudEventsVersion")
    event.url = text("source") or event.url
    # CloudEvents JSON format 1.0, 3.1: without datacontenttype the data is JSON.
    event.content_type = text("datacontenttype", "contentType") or JSON
    event.body = _data(envelope, event.content_type)


def _data(envelope: dict[str, Any], content_type: str) -> Any:
    """An object stays a dict; anything else is what an event of that content type would have as its body."""
    data = envelope.get("data")
    if isinstance(data, dict):
        return data
    raw = _raw(envelope, data)
    return parse_json(raw) if content_type == JSON else raw


def _raw(envelope: dict[str, Any], data: Any) -> bytes:
    if "data_base64" in envelope:
        try:
            return base64.b64decode(str(envelope["data_base64"]), validate=True)
        except binascii.Error:
            return str(envelope["data_base64"]).encode()
    if data is None:
        return b""
    return data.encode("utf-8", "surrogatepass") if isinstance(data, str) else json.dumps(data).encode()
