"""`context.platform`: calls between the functions of one agent, explicit acknowledgement, and the callbacks of a worker's end."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qsl

from edgehost.event import Event as WireEvent
from edgehost.event import Origin
from edgehost.event import Response as WireResponse
from edgehost.sdk.jsonable import JSON, dumps, parse_json
from edgehost.sdk.link import Link
from edgehost.sdk.ownership import Owner
from edgehost.sdk.response import Response

Callback = Callable[[], Any]


class Platform:
    """One per worker. Everything here is for the handler's own thread (or loop)."""

    kind = "local"
    namespace = "default"

    def __init__(self, function: str, link: Link) -> None:
        self._function = function
        self._link = link
        self._owner = Owner()
        self._on_drain: Callback | None = None
        self._on_termination: Callback | None = None

    def call_function(
        self, function_name: str, event: Any, node: Any = None, timeout: float | None = None, service_name_override: Any = None
    ) -> Response:
        """Hand `event` to another function of this agent and wait for its answer; blocks the worker (and its loop).

        `event` is anything with the attributes of an event; a dict as its body goes as JSON. In the answer header names are in
        lower case and an `application/json` body is parsed. A function that is not there answers 503. `node` and
        `service_name_override` mean nothing on one machine. Raises TimeoutError after `timeout` seconds.
        """
        self._owner.require("context.platform.call_function")
        answer = self._link.call(function_name, request(function_name, event, self._function), timeout)
        return received(answer)

    async def explicit_ack(self, qualified_offset: Any) -> None:
        """Acknowledge an event whose answer said `ensure_no_ack()`. Takes the event, or a QualifiedOffset made from it.

        Raises ValueError for an offset that does not come from an event of this worker.
        """
        self._owner.require("context.platform.explicit_ack")
        offset = qualified_offset.compile_explicit_ack_message()["attributes"]["offset"]
        call = getattr(offset, "call", None)
        if call is None:
            raise ValueError(
                f"explicit_ack: offset {offset!r} does not belong to an event; pass the event itself, or a QualifiedOffset made "
                "with QualifiedOffset.from_event(event) in this worker"
            )
        self._link.acknowledge(call)

    def set_drain_callback(self, callback: Callback) -> None:
        """Call `callback()` once, after the event in hand, when another worker takes over. The last one set counts."""
        self._on_drain = callback

    def set_termination_callback(self, callback: Callback) -> None:
        """Call `callback()` once, after the event in hand, before the worker ends. The last one set counts."""
        self._on_termination = callback

    def drain(self) -> Any:
        """Run the drain callback, if there is one; gives what it returns, a coroutine perhaps."""
        return self._on_drain() if self._on_drain else None

    def terminate(self) -> Any:
        """Run the termination callback, if there is one; gives what it returns, a coroutine perhaps."""
        return self._on_termination() if self._on_termination else None


def request(function_name: str, event: Any, caller: str) -> WireEvent:
    """The event the called function sees: what an HTTP request with this body, method, path and headers would have made."""
    body, content_type = _body(getattr(event, "body", None), getattr(event, "content_type", None))
    path, _, query = (getattr(event, "path", None) or "/").partition("?")
    fields = {**(getattr(event, "fields", None) or {}), **dict(parse_qsl(query, keep_blank_values=True))}
    headers = {name: str(value) for name, value in (getattr(event, "headers", None) or {}).items() if name != "Content-Length"}
    headers["Content-Type"] = content_type
    headers.setdefault("X-Nuclio-Target", function_name)
    return WireEvent(
        body=body,
        content_type=content_type,
        id=str(getattr(event, "id", None) or uuid.uuid4()),
        timestamp=datetime.now(timezone.utc),
        trigger=Origin("http", caller),
        path=path,
        headers=headers,
        method=getattr(event, "method", None) or ("POST" if body else "GET"),
        url=path,
        fields=fields,
    )


def received(answer: WireResponse) -> Response:
    """The answer of a called function as its caller sees it."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    content_type = headers.setdefault("content-type", answer.content_type or "text/plain")
    body = parse_json(answer.body) if content_type == JSON else answer.body
    return Response(headers, body, content_type, answer.status)


def _body(body: Any, content_type: str | None) -> tuple[bytes, str]:
    if body is None:
        return b"", content_type or "text/plain"
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body), content_type or "text/plain"
    if isinstance(body, str):
        return body.encode("utf-8", "replace"), content_type or "text/plain"
    return dumps(body).encode(), JSON
