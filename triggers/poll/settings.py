"""What `[triggers.NAME]` of kind `poll` may hold."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgehost.manifest.model import Positive, Seconds
from edgehost.polling.poller import First
from edgehost.triggers.poll.http_source import HttpSettings, HttpSource
from edgehost.triggers.poll.source import Around, Source
from edgehost.triggers.poll.sql_source import SqlSettings, SqlSource

Field = Annotated[str, Meta(min_length=1)]


class PollSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[triggers.NAME]` with `kind = "poll"`: one source, and which of its records are events."""

    interval_s: Annotated[float, Meta(ge=0.01, le=366 * 86400)]
    """From one read to the next; a read that takes longer leaves beats out."""
    http: HttpSettings | None = None
    sql: SqlSettings | None = None
    key: Field | Annotated[tuple[Field, ...], Meta(min_length=1)] = ()
    """The field or fields that tell records apart; without, a record is known by all it holds."""
    cursor: str = ""
    """A field that only grows (an id, a time): what lies beyond its highest value is new."""
    start: int | float | str = 0
    """The cursor of the very first read."""
    emit: Literal["changed", "new", "always"] = "changed"
    """changed: new records and changed ones. new: only new ones. always: every record of every read."""
    timeout_s: Seconds = 10.0
    """For a whole read."""
    max_records: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """The most one read may bring."""
    max_in_flight: Positive = 64
    """Events the function gets before it has answered the first; 1 keeps them strictly in order."""
    first: First = "now"

    def __post_init__(self) -> None:
        if (self.http is None) is (self.sql is None):
            raise ValueError('give one source: http = { url = "…" } or sql = { database = "…", query = "…" }')
        if self.cursor and self.emit == "always":
            raise ValueError('emit: "always" has no use for a cursor; leave one of the two out')
        if self.http is not None and self.http.asks_by_cursor and not self.cursor:
            raise ValueError("cursor: missing; the URL holds {cursor}, so name the field of a record that grows")
        if self.sql is not None and self.sql.asks_by_cursor and not self.cursor:
            raise ValueError("cursor: missing; the query holds :cursor, so name the column that grows")

    @property
    def keys(self) -> tuple[str, ...]:
        """`key` as it is meant: none, one or several."""
        return (self.key,) if isinstance(self.key, str) else self.key

    @property
    def textual(self) -> bool:
        """Whether a record that is text goes to the function as it is, and not as a JSON string."""
        return self.http is not None and self.http.format == "text"

    def source(self, around: Around) -> Source:
        """The source, ready to be read."""
        if self.http is not None:
            return HttpSource(self.http, around)
        assert self.sql is not None
        return SqlSource(self.sql, around)
