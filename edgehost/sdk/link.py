"""The way from a function's context back to its agent. The worker implements it; `sdk` only calls it."""

from __future__ import annotations

from typing import Any, Protocol

from edgehost.event import Event as WireEvent
from edgehost.event import Response as WireResponse


class Link(Protocol):
    """All of these may be called from the handler's thread (or loop) alone."""

    secrets: dict[str, str | bytes]
    """By name, those the function is granted."""

    def log(self, level: str, message: str, fields: dict[str, Any], event_id: str | None = None) -> None:
        """Send one log record; `level` is debug, info, warning or error; `fields` is JSON-ready. None: the event in hand."""

    def call(self, function: str, event: WireEvent, timeout_s: float | None) -> WireResponse:
        """Submit an event to another local function and block for its answer; raises TimeoutError after `timeout_s`."""

    def publish(self, output: str, event: WireEvent) -> None:
        """Send body, headers and path (topic) of `event` to the output named `output` of this function."""

    def acknowledge(self, call: int) -> None:
        """Release the acknowledgement that `Response.ensure_no_ack()` held back for the event with this call number."""
