"""Event and Response: the two values that travel through the whole agent.

Both are encoded as msgpack arrays on the worker channel, so the ORDER of the fields is the wire format between an agent and its
own workers (never between versions: workers are forked from the agent's own code). Knows nothing of queues, workers or sources.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from msgspec import Struct

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Origin(Struct, frozen=True, array_like=True, gc=False):
    """Where an event came from: the trigger's kind (`mqtt`, `http`, `cron` ...) and its name in the manifest."""

    kind: str = ""
    name: str = ""


class Event(Struct, frozen=True, array_like=True, gc=False):
    """What happened. The handler contract gives the meaning of each field; a source leaves at its default what it does not
    have.
    """

    body: bytes = b""
    content_type: str = ""
    id: str = ""
    timestamp: datetime = EPOCH
    """When the event was received, UTC, timezone-aware."""
    trigger: Origin = Origin()
    path: str = "/"
    headers: dict[str, str] = {}
    method: str = ""
    url: str = ""
    fields: dict[str, str] = {}
    topic: str = ""
    offset: int = 0
    shard_id: int = -1
    num_shards: int = 0
    type: str = ""
    type_version: str = ""
    version: str = ""
    last_in_batch: bool = False


class Response(Struct, frozen=True, array_like=True, gc=False):
    """What a function said to one event. A failure is a Response too: `code` names it and is empty when the handler answered."""

    status: int = 200
    content_type: str = "text/plain"
    headers: dict[str, str] = {}
    body: bytes = b""
    code: str = ""
    event_id: str = ""
    """Set only on the members of a batch: the id of the event it answers."""
    chunks: Any = None
    """None, or for a streamed answer an async iterator of bytes that follow `body`. Whoever takes the Response iterates it to
    the end or calls its `aclose()`."""

    @property
    def failed(self) -> bool:
        """True when the event was not handled: it raised, timed out, found no room or lost its worker."""
        return self.code != ""


# Failure codes, with the HTTP status each becomes (handler contract, "Status codes of the HTTP trigger").
FAILURES = {
    "raised": 500,
    "permanent": 500,
    "worker_died": 500,
    "timeout": 408,
    "no_worker": 503,
    "stopped": 503,
    "not_ready": 503,
    "dropped": 503,
    "no_room": 503,
    "queue_full": 429,
    "cancelled": 499,
    "output_failed": 502,
}


def failure(code: str, message: str, event_id: str = "") -> Response:
    """The Response of an event that was not handled. `code` is a key of FAILURES; `message` is for the caller to read."""
    return Response(FAILURES[code], "text/plain", {}, message.encode(), code, event_id)
