"""Answers as events of another function of this agent. A chain that comes back to itself is stopped by its depth.

Each hop carries its number in a header, for nothing else of the event survives a function. Knows nothing of the other function.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from edgehost.errors import TriggerError
from edgehost.event import Event, Origin, Response
from edgehost.plugin import OutputHost

MOST_DEEP = 16
DEPTH_HEADER = "X-Edgehost-Depth"


class FunctionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[outputs.NAME]` with `kind = "function"`."""

    name: Annotated[str, Meta(min_length=1)]
    """The function that is called with each answer."""


class FunctionOutput:
    """See edgehost/plugin.py, Output."""

    Settings: ClassVar[type[Struct]] = FunctionSettings

    def __init__(self, settings: FunctionSettings, host: OutputHost) -> None:
        self._name = settings.name
        self._host = host

    async def start(self) -> None:
        """Nothing to open: the other function may start later than this one."""

    async def send(self, event: Event, response: Response) -> None:
        """Call the function and wait for its answer. TriggerError if it fails, or the chain is more than MOST_DEEP calls deep."""
        depth = _depth(event) + 1
        if depth > MOST_DEEP:
            raise TriggerError(
                f"{self._host.function_name} calls {self._name} {depth} calls deep, and {MOST_DEEP} is the most: "
                f"does one of them call the other back? See [outputs.{self._host.name}]"
            )
        answer = await self._host.call(self._name, self._event(event, response, depth))
        if answer.failed:
            raise TriggerError(f"function {self._name} failed ({answer.code}): {answer.body[:500].decode('utf-8', 'replace')}")

    def _event(self, event: Event, response: Response, depth: int) -> Event:
        return Event(
            response.body,
            response.content_type,
            event.id,
            datetime.now(timezone.utc),
            Origin("function", self._host.function_name),
            headers={**response.headers, DEPTH_HEADER: str(depth)},
        )

    async def stop(self) -> None:
        """Nothing to close."""


def _depth(event: Event) -> int:
    text = event.headers.get(DEPTH_HEADER, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else 0
