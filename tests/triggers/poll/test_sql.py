"""SQL as a source: real SQLite files, locked, gone, replaced or changed under way, and other drivers with their own styles."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import types
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgehost.triggers.poll.sql_source import bound

if TYPE_CHECKING:
    from tests.triggers.poll.conftest import Polled

Poll = Callable[..., Awaitable["Polled"]]
NEWER = "SELECT id, t FROM readings WHERE id > :cursor ORDER BY id"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "with space?.db"
    run(path, "CREATE TABLE readings (id INTEGER PRIMARY KEY, t REAL)", "INSERT INTO readings VALUES (1, 20.5), (2, 21)")
    return path


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, 10)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def test_rows_beyond_the_cursor_become_events(poll: Poll, database: Path) -> None:
    polled = await poll({"sql": {"database": database.name, "query": NEWER}, "cursor": "id"})
    await polled.reads(2)
    run(database, "INSERT INTO readings VALUES (3, NULL)")
    await polled.until(lambda: len(polled.bodies) == 3)
    assert polled.bodies == [{"id": 1, "t": 20.5}, {"id": 2, "t": 21.0}, {"id": 3, "t": None}]
    assert polled.host.events[0].url == database.as_uri()
    assert polled.host.counts["records"] == 3


async def test_changed_rows_are_found_by_their_key(poll: Poll, database: Path) -> None:
    polled = await poll({"sql": {"database": str(database), "query": "SELECT * FROM readings"}, "key": "id"})
    await polled.reads(2)
    run(database, "UPDATE readings SET t = 30 WHERE id = 2", "DELETE FROM readings WHERE id = 1")
    await polled.until(lambda: len(polled.bodies) == 3)
    assert polled.bodies[2] == {"id": 2, "t": 30.0}


async def test_a_power_cut_in_the_middle_of_a_write_is_told_until_its_writer_has_undone_it(poll: Poll, database: Path) -> None:
    cut = database.with_name("cut.db")
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN")
        writer.executemany("INSERT INTO readings VALUES (?, 0)", ((number,) for number in range(3, 20_000)))
        for suffix in ("", "-journal"):
            shutil.copy(f"{database}{suffix}", f"{cut}{suffix}")
    polled = await poll({"sql": {"database": cut.name, "query": NEWER}, "cursor": "id"})
    await polled.told("degraded", "left in the middle of a transaction", "let the program that writes it open it")
    run(cut, "INSERT INTO readings VALUES (3, NULL)")
    await polled.told("running")
    await polled.until(lambda: len(polled.bodies) == 3)


async def test_every_type_of_value_is_json(poll: Poll, database: Path) -> None:
    query = "SELECT 1 AS i, 1.5 AS f, 'ä' AS t, x'00ff' AS b, NULL AS n"
    polled = await poll({"sql": {"database": str(database), "query": query}})
    await polled.reads()
    assert polled.bodies == [{"i": 1, "f": 1.5, "t": "ä", "b": "AP8=", "n": None}]


async def test_a_table_longer_than_a_read_comes_in_pages(poll: Poll, database: Path) -> None:
    rows = ", ".join(f"({number}, {number // 4})" for number in range(3, 40))
    run(database, "DELETE FROM readings", f"INSERT INTO readings VALUES {rows}")
    query = "SELECT * FROM readings WHERE t > :cursor ORDER BY t"
    polled = await poll({"sql": {"database": str(database), "query": query}, "cursor": "t", "start": -1, "max_records": 10})
    await polled.until(lambda: len(polled.bodies) == 37)
    assert sorted(body["id"] for body in polled.bodies) == list(range(3, 40))


@pytest.mark.parametrize(
    ("settings", "query", "message"),
    [
        ({}, "SELECT * FROM gone", "no such table: gone"),
        ({}, "SELEC 1", 'near "SELEC": syntax error'),
        ({}, "SELECT id, t AS id FROM readings", "the query has two columns 'id'; name one of them otherwise with AS"),
        ({}, "DELETE FROM readings", "attempt to write a readonly database"),
        ({}, "PRAGMA user_version = 5", "attempt to write a readonly database"),
        ({}, "BEGIN", "the query brings no rows; use a SELECT"),
        ({"max_records": 1}, "SELECT * FROM readings", "more than 1 rows; add a LIMIT, or a cursor"),
        ({"max_records": 1, "cursor": "id"}, f"{NEWER} DESC", "not in order of the cursor; add ORDER BY id"),
        ({"max_records": 1, "cursor": "t"}, "SELECT 5 AS t FROM readings WHERE 1 > :cursor", "more than 1 rows have t = 5"),
        ({"max_records": 1, "cursor": "x"}, NEWER, "the cursor 'x' does not tell the order of the rows: there is no 'x'"),
    ],
)
async def test_a_query_that_does_not_work_is_told(
    poll: Poll, database: Path, settings: dict[str, Any], query: str, message: str
) -> None:
    polled = await poll({"sql": {"database": str(database), "query": query}, **settings})
    await polled.told("degraded", message)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM readings").fetchone() == (2,)


async def test_a_file_that_comes_goes_and_is_replaced(poll: Poll, database: Path) -> None:
    away = database.rename(database.with_name("away.db"))
    polled = await poll({"sql": {"database": str(database), "query": "SELECT * FROM readings"}, "key": "id"})
    await polled.told("degraded", "there is no database", "it is read as soon as it is there")
    away.rename(database)
    await polled.told("running")
    database.unlink()
    await polled.told("degraded", "there is no database")
    run(database, "CREATE TABLE readings (id INTEGER PRIMARY KEY, t REAL)", "INSERT INTO readings VALUES (9, 1)")
    await polled.told("running")
    assert [body["id"] for body in polled.bodies] == [1, 2, 9]


async def test_a_file_that_is_no_database_is_told(poll: Poll, database: Path) -> None:
    database.write_bytes(b"this is not what you are looking for" * 100)
    polled = await poll({"sql": {"database": str(database), "query": NEWER}, "cursor": "id"})
    await polled.told("degraded", "file is not a database")


async def test_a_lock_is_waited_for_and_then_told(poll: Poll, database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        polled = await poll({"sql": {"database": str(database), "query": NEWER}, "cursor": "id", "timeout_s": 0.4})
        await polled.told("degraded", "database is locked")
        other.execute("INSERT INTO readings VALUES (3, 1)")
        other.execute("COMMIT")
    await polled.told("running")
    assert len(polled.bodies) == 3


async def test_a_query_without_end_is_interrupted(poll: Poll, database: Path) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    polled = await poll({"sql": {"database": str(database), "query": endless}, "timeout_s": 0.2})
    await polled.told("degraded", "the query took longer than 0.2 s; make it quicker (an index?), or raise timeout")


async def test_a_writer_at_work_is_no_trouble(poll: Poll, database: Path) -> None:
    """A database in WAL mode, written to all the time: each row is found once."""
    run(database, "PRAGMA journal_mode = WAL")
    polled = await poll({"sql": {"database": str(database), "query": NEWER}, "cursor": "id", "interval_s": 0.01})
    for number in range(3, 60):
        run(database, f"INSERT INTO readings VALUES ({number}, {number})")
        await polled.until(lambda: polled.host.counts["reads"])
    await polled.until(lambda: len(polled.bodies) == 59)
    assert [body["id"] for body in polled.bodies] == list(range(1, 60))


@pytest.mark.parametrize(
    ("style", "query", "parameters"),
    [
        ("named", "a > :cursor AND b LIKE '%'", {"cursor": 5}),
        ("qmark", "a > ? AND b LIKE '%'", (5,)),
        ("numeric", "a > :1 AND b LIKE '%'", (5,)),
        ("format", "a > %s AND b LIKE '%%'", (5,)),
        ("pyformat", "a > %(cursor)s AND b LIKE '%%'", {"cursor": 5}),
    ],
)
def test_each_driver_gets_the_cursor_in_its_style(style: str, query: str, parameters: Any) -> None:
    assert bound("a > :cursor AND b LIKE '%'", style, 5) == (query, parameters)
    assert bound("a::cursor", style, 5)[0] == "a::cursor"


async def test_another_driver_is_a_module(poll: Poll, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DB-API 2.0 module made of SQLite, which has `cancel` as psycopg's connections do."""

    class Connection(sqlite3.Connection):
        def cancel(self) -> None:
            self.interrupt()

    driver = types.ModuleType("other_sql")
    driver.paramstyle, driver.Error = "qmark", sqlite3.Error  # type: ignore[attr-defined]
    driver.connect = lambda name: sqlite3.connect(name, factory=Connection)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other_sql", driver)
    sql = {"database": str(database), "query": NEWER, "driver": "other_sql"}
    polled = await poll({"sql": sql, "cursor": "id"})
    await polled.reads(2)
    assert [body["id"] for body in polled.bodies] == [1, 2] and polled.host.events[0].url == "other_sql"
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    slow = await poll({"sql": {**sql, "query": endless}, "timeout_s": 0.2})
    await slow.told("degraded", "the query took longer than 0.2 s")
    missing = await poll({"sql": {**sql, "driver": "no_such_sql"}, "cursor": "id"})
    await missing.told("degraded", "driver 'no_such_sql' cannot be loaded", "install its package")
