"""CloudEvents. Structured mode: one JSON object holds attributes and data. Binary mode: headers hold the attributes.

Reads the names of CloudEvents 1.0 and, in structured mode, of 0.1, which Nuclio's processor understands too. An envelope that
cannot be read stays what it is: the body of an ordinary event.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from edgehost.sdk.jsonable import JSON, parse_json

if TYPE_CHECKING:
    from edgehost.sdk.event import Event


def unwrap(event: Event) -> None:
    """Structured mode: the envelope's attributes and data replace the event's own. `size` stays that of the raw body."""
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


def take_headers(event: Event) -> None:
    """Binary mode: `Ce-Id` and its like in HTTP (percent-encoded, HTTP binding 3.1.3.2), user properties `id` ... in MQTT 5."""
    headers = event.headers
    if "Ce-Specversion" in headers:
        values = {name: unquote(headers.get(f"Ce-{name.capitalize()}", "")) for name in ("id", "type", "specversion", "source")}
    else:
        values = {name: headers.get(name, "") for name in ("id", "type", "specversion", "source")}
    event.id = values["id"] or event.id
    event.type = values["type"]
    event.version = values["specversion"]
    event.url = values["source"] or event.url


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
