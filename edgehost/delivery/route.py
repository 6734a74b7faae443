"""Route: one output of a version, the answers it wants, and its lane, if it has one. Must not know how answers come about."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import cast

from msgspec.structs import replace

from edgehost.delivery.lane import Lane
from edgehost.event import Event, Response
from edgehost.manifest.model import OutputSpec
from edgehost.parcel import Parcel
from edgehost.plugin import Forwarding, Output


@dataclass(frozen=True)
class Route:
    """One output and the answers it wants. `lane` is None for one that has nothing to wait for (a log, a pin)."""

    spec: OutputSpec
    output: Output
    lane: Lane | None = None

    def wants(self, trigger: str, failed: bool) -> bool:
        """Whether the answer to an event of `trigger` goes this way."""
        wanted = {"success": not failed, "failure": failed, "always": True, "never": False}[self.spec.on]
        return wanted and (not self.spec.triggers or trigger in self.spec.triggers)

    def send(self, event: Event, response: Response) -> Awaitable[None] | None:
        """As Output.send; where the receiver is away, safe on disk is safe."""
        return self.output.send(event, response) if self.lane is None else self.lane.send(event, response)

    def parcel(self, event: Event, response: Response, name: str, number: int | None = None) -> Parcel:
        """The answer, packed to be stored in the event's own transaction. `name` is what the event is known by, `number` counts
        what it publishes: together they are the parcel's id."""
        parcel = cast(Forwarding, self.output).pack(event, response)
        part = self.spec.name if number is None else f"{self.spec.name}/{number}"
        return replace(parcel, id=f"{name}/{part}", published=time.time())
