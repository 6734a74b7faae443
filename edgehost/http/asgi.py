"""The few ASGI shapes and moves the handlers share: reading a body within bounds, a plain answer, noticing that the client left.

Source of the messages: ASGI 3.0, HTTP & WebSocket protocol 2.3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]
Handler = Callable[[Scope, Receive, Send, str], Awaitable[None]]
"""Serves one request; the last argument is the prefix its route matched."""

BODY_S = 20.0
BODY_BYTES_PER_S = 500
"""A body may take BODY_S and 1 s more for every BODY_BYTES_PER_S that came (Apache's mod_reqtimeout, `body=20,MinRate=500`)."""


class RefusedError(Exception):
    """This request is not served: the status, the line for the client, and headers beside the usual ones."""

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


class ClientGoneError(Exception):
    """The client closed its connection; nobody reads an answer."""


async def read_body(headers: dict[str, str], receive: Receive, limit_bytes: int, came: Callable[[int], None]) -> bytes:
    """The whole body. Refused 413 as soon as it is known to be too large, 408 when it comes too slowly; ClientGoneError.
    `came` is told of each piece before it is kept, and may refuse it.
    """
    if (declared := headers.get("Content-Length")) is not None and declared.isdecimal() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message["body"]
    if body:
        came(len(body))
    if message["more_body"]:
        body = await _read_rest(body, receive, limit_bytes, came)
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    return body


async def _read_rest(first: bytes, receive: Receive, limit_bytes: int, came: Callable[[int], None]) -> bytes:
    parts, size, began, more = [first], len(first), time.monotonic(), True
    while more:
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        patience_s = began + BODY_S + size / BODY_BYTES_PER_S - time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), patience_s)
        except asyncio.TimeoutError:
            raise RefusedError(408, f"the body came too slowly: {size} bytes in {time.monotonic() - began:.0f} s") from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        came(len(message["body"]))
        parts.append(message["body"])
        size += len(message["body"])
        more = message["more_body"]
    return b"".join(parts)


def _too_large(limit_bytes: int) -> RefusedError:
    return RefusedError(413, f"the body is over the limit of {limit_bytes} bytes")


async def reply(send: Send, status: int, text: str = "", headers: Headers = ()) -> None:
    """A plain text answer in one go."""
    body = f"{text}\n".encode() if text else b""
    own = [] if status == 204 else [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": body})


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed its connection (or the answer is complete)."""
    while (await receive())["type"] != "http.disconnect":
        pass
