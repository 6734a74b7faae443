"""The Response a handler may return. A plain, open object, as nuclio-sdk's is; `answer` makes the wire's value of it."""

from __future__ import annotations

from typing import Any

NO_ACK = "x-nuclio-stream-no-ack"
"""The header that holds an acknowledgement back until `context.platform.explicit_ack`."""


class Response:
    """Status, headers and body of an answer. `body` may be str, bytes, a dict (sent as JSON), a generator or an async generator.

    `event_id` is for batches: the id of the event this one answers. Only headers whose value is a string reach the caller.
    """

    def __init__(
        self,
        headers: dict[str, Any] | None = None,
        body: Any = None,
        content_type: str | None = None,
        status_code: int = 200,
        event_id: str | None = None,
    ) -> None:
        self.headers: dict[str, Any] = headers or {}
        self.body = body
        self.status_code = status_code
        self.content_type = content_type or "text/plain"
        self.event_id = event_id

    def ensure_no_ack(self) -> None:
        """Do not acknowledge the event when the handler returns: `await context.platform.explicit_ack(...)` will."""
        self.headers[NO_ACK] = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"
