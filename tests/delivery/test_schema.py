"""Schema: each step is made wholly or not at all, whoever dies in between, and a version is what its steps make it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgehost.delivery import schema
from edgehost.delivery.recovery import open_journal
from tests.delivery.samples import contents, fill

ADDED = "ALTER TABLE events ADD COLUMN note TEXT; CREATE INDEX events_at ON events (at)"


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def before(path: Path) -> Iterator[dict[str, int]]:
    """A journal of the version before, and how many rows its tables have."""
    fill(path, 30)
    yield {table: len(rows) for table, rows in contents(path).items()}


def counted(path: Path) -> dict[str, int]:
    return {table: len(rows) for table, rows in contents(path).items()}


def test_a_journal_of_the_version_before_is_brought_to_this_one(
    path: Path, before: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS, ADDED))
    connection, notes = open_journal(path, False)
    connection.execute("UPDATE events SET note = 'new'")
    connection.close()
    assert (notes, version(path), counted(path)) == ([], 2, before)


@pytest.mark.parametrize("broken", [f"{ADDED}; INSERT INTO nowhere VALUES (1)", f"{ADDED}; SYNTAX"])
def test_a_step_that_cannot_be_finished_leaves_the_version_before(
    path: Path, before: dict[str, int], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(schema, "_STEPS", (*schema._STEPS, broken))
        with closing(sqlite3.connect(path, isolation_level=None)) as connection, pytest.raises(sqlite3.OperationalError):
            schema.migrate(connection)
    assert (version(path), counted(path)) == (1, before)
    connection, notes = open_journal(path, False)
    connection.close()
    assert notes == []


def test_the_steps_before_one_that_cannot_be_finished_stay(
    path: Path, before: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS, ADDED, "CREATE TABLE more (x); INSERT INTO nowhere VALUES (1)"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, pytest.raises(sqlite3.OperationalError):
        schema.migrate(connection)
    assert (version(path), counted(path)) == (2, before)


def test_a_damaged_journal_of_the_version_before_is_salvaged_into_this_one(
    path: Path, before: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_STEPS", (*schema._STEPS, ADDED))
    connection, notes = open_journal(path, False, "by this test")
    connection.close()
    assert len(notes) == 1
    assert (version(path), counted(path)) == (2, before)


def test_every_table_is_salvaged() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.migrate(connection)
        made = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert made - {"sqlite_sequence"} == set(schema.TABLES)
