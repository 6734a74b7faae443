"""Source: what the poll trigger asks. To add one: a class like this, its frozen Settings struct, and a field in `PollSettings`.

    class Letters:
        def __init__(self, settings: LettersSettings, around: Around): ...
        def read(self, cursor): return [{"id": 1, "letter": "a"}]

`read` may block: it runs in a thread of its own, never twice at once. Which records are new, and what is remembered, is not a
source's concern; `cursor` is where the last read ended, for sources that can be asked for what follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct


class Around(Struct, frozen=True):
    """What every source is told. A relative path in its settings counts from `folder`, the function's own."""

    folder: Path
    timeout_s: float
    max_records: int
    cursor: str
    """The field of a record that grows, empty if there is none."""


class Source(Protocol):
    """One source of records."""

    url: str
    """Where it reads, for `event.url` and for people; holds no secret."""

    def read(self, cursor: int | float | str) -> list[Any] | None:
        """Every record there is, or those from `cursor` on; None: nothing has changed since the last read.

        A record is a JSON value, an object if it has fields. Raises TriggerError with what to do, TryLaterError when the source
        asks for patience.
        """

    def interrupt(self) -> None:
        """Called from the loop: make the read under way raise soon. It has taken `timeout_s`, or the trigger stops."""
