"""Dead letters as people and machines see them: events that failed for good, and messages that their receivers refused.

Values. Must not know where letters are kept, or who asks for them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgehost.event import Event
from edgehost.parcel import Parcel

MOST_NUMBERS = 500
"""So many letters are named by their numbers at once; more of them are meant by what they have in common."""

Kind = Literal["any", "event", "message"]


class Which(Struct, frozen=True):
    """Which letters are meant: those that all of it fits. Of a text that is empty and a number that is None: any."""

    numbers: Annotated[list[int], Meta(max_length=MOST_NUMBERS)] = []
    function: str = ""
    trigger: str = ""
    output: str = ""
    kind: Kind = "any"
    code: str = ""
    event_id: str = ""
    text: str = ""
    """In the error, whatever its case."""
    older_s: float | None = None
    """Dead for at least so long, by the journal's clock: time without power does not count."""
    newer_s: float | None = None
    every: bool = False
    """Without anything else: yes, all of them are meant."""

    @property
    def open(self) -> bool:
        """Nothing is asked of a letter, so every one fits."""
        return self == Which(every=self.every)


class Letter(Struct, frozen=True):
    """One letter without what it holds."""

    number: int
    function: str
    trigger: str
    """Where its event came in; empty for a message."""
    output: str
    """Where it was to leave; empty for an event."""
    event_id: str
    code: str
    """Why it failed: a key of edgehost.event.FAILURES."""
    error: str
    attempts: int
    received: float
    """Unix time, as the event says."""
    failed: float
    """Unix time at which it was given up."""
    age_s: float
    """How long ago that was, by the journal's clock."""
    size_bytes: int


class WholeLetter(Struct, frozen=True, tag="whole_letter", tag_field="op"):
    """One letter with what it holds: an event or a message."""

    letter: Letter
    event: Event | None = None
    parcel: Parcel | None = None


class Letters(Struct, frozen=True, tag="letters", tag_field="op"):
    """The newest of the letters that were meant, and how many those are."""

    letters: list[Letter]
    matching: int
    functions: dict[str, int] = {}
    """How many of the matching ones each function has."""
