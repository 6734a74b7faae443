"""The agent's dead letters from outside: read in its journal while it is down, replayed through its socket while it runs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tools.ordeal.messages import named_within


def in_journal(state: Path, function: str) -> set[int]:
    """The numbers of the messages among the dead letters of `function`. The agent must not run."""
    return _numbers(state, "SELECT body FROM dead WHERE function = ?", function)


def left_over(state: Path) -> str:
    """What an idle agent has left on disk though it should have nothing to do any more; "" if nothing."""
    with closing(sqlite3.connect(state / "journal.db")) as connection:
        counts = [(table, connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in ("events", "outbox")]
    return ", ".join(f"{count} rows in {table}" for table, count in counts if count)


def _numbers(state: Path, select: str, *values: str) -> set[int]:
    with closing(sqlite3.connect(state / "journal.db")) as connection:
        found = [named_within(bytes(body)) for (body,) in connection.execute(select, values)]
    return {name[1] for name in found if name is not None}
