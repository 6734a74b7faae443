"""How the journal is, as an agent tells it: what waits in it, where, how much, how old, and what is wrong. Values only."""

from __future__ import annotations

from msgspec import Struct


class WaitingEvents(Struct, frozen=True):
    """Durable events of one trigger that are on disk and not answered."""

    function: str
    trigger: str
    count: int
    bytes: int
    oldest_s: float
    """How long the oldest has been there, by the journal's clock."""


class OutputStock(Struct, frozen=True):
    """One output's part of the outbox."""

    function: str
    output: str
    state: str
    """`direct` (nothing waits), `waiting`, `leaving`, `memory` (no place on disk now), `gone` (no such output any more)."""
    count: int = 0
    bytes: int = 0
    oldest_s: float = 0.0
    counts: dict[str, int] = {}
    """`stored`, `left`, `dropped`, `expired`, `refused` since the agent's start."""


class WrittenBytes(Struct, frozen=True):
    """What one component has written to the disk."""

    component: str
    today_bytes: int
    week_bytes: int
    """Today and the six days before."""


class JournalStatus(Struct, frozen=True, tag="journal_status", tag_field="op"):
    """The journal and all that waits in it."""

    state: str
    """`open`, `unused` (nothing needed one yet), `opening`, `failed`, `closed` (read from the file, without an agent)."""
    path: str
    size_bytes: int = 0
    """With its log, which SQLite keeps beside it."""
    clock_s: float = 0.0
    """Seconds since it was begun, not counting those without power."""
    trouble: str = ""
    """Why nothing can be written now."""
    refusal: str = ""
    """Why no durable event is taken now."""
    notes: list[str] = []
    """What was found damaged, one line each."""
    events: list[WaitingEvents] = []
    events_limit_bytes: int = 0
    outbox: list[OutputStock] = []
    outbox_limit_bytes: int = 0
    dead_letters: int = 0
    dead_letters_limit: int = 0
    dead_letters_dropped: int = 0
    """Because there were too many, since the start."""
    written: list[WrittenBytes] = []
    """By component; of the agent's file system alone."""
    partly: bool = False
    """It could not be asked what waits: `events` and ages are missing."""
