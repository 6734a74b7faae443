"""The journal's thread: transactions shared, faults kept to their owners, and nobody left waiting whatever it meets."""

from __future__ import annotations

import queue
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgehost.delivery import writer as module
from edgehost.delivery.rows import Change
from edgehost.delivery.sqlite_errors import is_damage, is_trouble
from edgehost.delivery.transaction import Outcomes, Query
from edgehost.delivery.writer import Writer
from edgehost.errors import StateError
from tests.delivery.samples import PAGE, answered, dead, encode, received, stored

PATIENCE_S = 30


class Loop:
    """What the journal's loop side is to its thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: queue.SimpleQueue[Outcomes] = queue.SimpleQueue()
        self.troubles: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.notes: list[str] = []
        self.restored = 0
        self.writer = Writer(path, False, self.told.put, self.troubles.put, self.notes.extend, self._restore)

    def _restore(self, connection: sqlite3.Connection) -> None:
        self.restored += 1
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('restored', 1)")

    def do(self, *jobs: Change | Query) -> list[Any]:
        """Hand these over together; what each came to, an error in place of a result."""
        self.writer.jobs.put([(job, _nobody) for job in jobs])
        outcomes = self.told.get(timeout=PATIENCE_S)
        return [error if error is not None else result for _, result, error in outcomes]


def _nobody(_result: Any, _error: BaseException | None) -> None:
    """Who is told does not matter: `Loop` sees it all."""


@pytest.fixture
def loop(tmp_path: Path, whole_again: None) -> Iterator[Loop]:
    one = Loop(tmp_path / "state" / "journal.db")
    one.writer.start()
    yield one
    one.writer.end()
    one.writer.join(PATIENCE_S)
    assert not one.writer.is_alive()


def count(table: str) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_what_is_handed_over_together_is_one_transaction(loop: Loop) -> None:
    version = "PRAGMA data_version"
    begun: list[str] = []
    loop.do(lambda connection: connection.set_trace_callback(begun.append))
    loop.do(Change((received(1),)), Change((received(2),)), count("events"), Change(stored=(stored(1),)), count("outbox"))
    assert begun.count("COMMIT") <= 2, version
    assert len([each for each in begun if each.startswith("BEGIN")]) == 1


def test_a_query_sees_what_was_handed_over_before_it(loop: Loop) -> None:
    row, look = received(1), count("events")
    assert loop.do(look, Change((row,)), look, Change(settled=(row.place,)), look) == [0, None, 1, None, 0]


def test_what_is_received_and_settled_together_is_not_written_at_all(loop: Loop) -> None:
    written: list[str] = []
    loop.do(lambda connection: connection.set_trace_callback(written.append))
    loop.do(Change((received(1), received(2))), Change(settled=(received(1).place, received(2).place)))
    assert not [each for each in written if "events" in each]


def test_every_part_of_a_change_is_carried_out(loop: Loop) -> None:
    row, parcel = received(1, key="1/k"), stored(1)
    loop.do(Change((row,), stored=(parcel,), answered=(answered("1/a"),), dead=(dead(1),)))
    loop.do(Change(tried=((row.place, 4),), claimed=((parcel.place, 77),), released=(parcel.place,)))

    def look(connection: sqlite3.Connection) -> list[Any]:
        return [
            connection.execute("SELECT key, attempts FROM events").fetchall(),
            connection.execute("SELECT packet_id, released FROM outbox").fetchall(),
            connection.execute("SELECT key FROM answered").fetchall(),
            connection.execute("SELECT code, attempts FROM dead").fetchall(),
        ]

    assert loop.do(look) == [[[("1/k", 4)], [(77, 1)], [("1/a",)], [("raised", 3)]]]
    loop.do(Change(settled=(row.place,), left=(parcel.place,)))
    assert loop.do(count("events"), count("outbox")) == [0, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 500])
def test_any_number_of_rows_goes_in_and_out_with_holes(loop: Loop, size: int) -> None:
    loop.do(Change(tuple(received(n) for n in range(size))))
    gone = tuple(received(n).place for n in range(size) if n % 7 in (0, 1, 2, 5))
    loop.do(Change(settled=gone))
    assert loop.do(count("events")) == [size - len(gone)]


BAD_QUERIES: dict[str, Query] = {
    "no table": lambda connection: connection.execute("SELECT * FROM nowhere"),
    "no column": lambda connection: connection.execute("SELECT nothing FROM events"),
    "syntax": lambda connection: connection.execute("SELECT SELECT"),
    "too few values": lambda connection: connection.execute("SELECT ?", ()),
    "twice": lambda connection: connection.execute("INSERT INTO events VALUES (1, x'', NULL, 0, 0), (1, x'', NULL, 0, 0)"),
    "malformed JSON": lambda connection: connection.execute("SELECT json_extract('{', '$.a')").fetchall(),
    "surrogate": lambda connection: connection.execute("SELECT ?", ("\ud800",)),
    "large": lambda connection: connection.execute("SELECT ?", (1 << 70,)),
    "its own": lambda connection: {}["x"],
}


@pytest.mark.parametrize("which", BAD_QUERIES)
def test_a_query_that_raises_spoils_nothing_else(loop: Loop, which: str) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta VALUES ('half', 1)")
        BAD_QUERIES[which](connection)

    first, error, second, after = loop.do(Change((received(1),)), half, Change((received(2),)), count("events"))
    assert isinstance(error, Exception)
    assert (first, second, after) == (None, None, 2)
    assert loop.do(lambda connection: connection.execute("SELECT * FROM meta").fetchall()) == [[]]
    assert not loop.notes, "it was not the file's fault"


BAD_CHANGES = {
    "the same place": Change((received(1),)),
    "a number too large": Change(tried=((received(1).place, 1 << 70),)),
    "no text": Change((received(3, key="\ud800"),)),
    "no value": Change((received(3, key=object()),)),  # type: ignore[arg-type]
    "no number": Change(left=("x", None)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("which", BAD_CHANGES)
def test_a_change_that_cannot_be_spoils_no_other(loop: Loop, which: str) -> None:
    loop.do(Change((received(1),)))
    first, error, second, events = loop.do(Change((received(2),)), BAD_CHANGES[which], Change((received(5),)), count("events"))
    assert isinstance(error, StateError)
    assert "the journal cannot hold this" in str(error)
    assert (first, second, events) == (None, None, 3)
    assert loop.troubles.empty()


def test_damage_that_is_found_in_use_is_mended_and_the_transaction_done(loop: Loop) -> None:
    loop.do(lambda connection: connection.execute("PRAGMA cache_size = 1"))
    loop.do(Change(tuple(received(n, body=bytes(3000)) for n in range(1500))))
    loop.do(Change((received(2000),)))  # the log was copied into the file, and begins anew
    with loop.path.open("r+b") as file:
        for page in range(40, 60):
            file.seek(page * PAGE)
            file.write(b"\xff" * PAGE)
    total = loop.do(lambda connection: sum(len(event) for (event,) in connection.execute("SELECT event FROM events")))[0]
    assert total > 1000 * 3000
    (note,) = loop.notes
    assert "set aside as journal.db.damaged-1" in note
    assert loop.restored == 1
    assert loop.do(Change((received(9000),)), count("meta")) == [None, 1]


def test_what_looks_like_damage_and_is_not_ends(loop: Loop) -> None:
    """A query that says so each time: the file is checked, then mended, then the query is at fault."""

    def liar(connection: sqlite3.Connection) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    loop.do(Change((received(1),)))
    done, error = loop.do(Change((received(2),)), liar)
    assert done is None
    assert isinstance(error, sqlite3.DatabaseError)
    assert loop.do(count("events")) == [2]


@pytest.mark.parametrize("how", ["file", "folder", "replaced"])
def test_a_journal_that_is_deleted_in_use_is_written_anew(loop: Loop, how: str) -> None:
    loop.do(*[Change((received(n),)) for n in range(50)])
    if how == "folder":
        shutil.rmtree(loop.path.parent)
    else:
        loop.path.unlink()
    if how == "replaced":
        loop.path.write_bytes(b"garbage" * 2000)
    assert loop.do(Change((received(50),)), count("events")) == [None, 51]
    assert "deleted or replaced while it was in use" in loop.notes[0]
    loop.writer.end()
    loop.writer.join(PATIENCE_S)
    with closing(sqlite3.connect(loop.path)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (51,)


@pytest.mark.parametrize("what", [b"garbage" * 20000, b""])
def test_a_journal_that_is_overwritten_in_use_stops_nothing(loop: Loop, what: bytes) -> None:
    loop.do(*[Change((received(n, body=bytes(2000)),)) for n in range(500)])
    with loop.path.open("r+b") as file:
        file.write(what)
        file.truncate(len(what) or 0)
    for number in range(1000, 1040):
        assert loop.do(Change((received(number),))) == [None]
    assert loop.do(count("events"))[0] >= 1


def test_a_full_disk_is_waited_for(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    full = threading.Event()
    full.set()
    real = module.together

    def together(connection: sqlite3.Connection, batch: Any) -> Outcomes:
        if full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        return real(connection, batch)

    loop.do(count("events"))
    monkeypatch.setattr(module, "together", together)
    loop.writer.jobs.put([(Change((received(1),)), _nobody)])
    assert "the journal cannot be written (database or disk is full); make room in" in loop.troubles.get(timeout=PATIENCE_S)
    full.clear()
    assert loop.told.get(timeout=PATIENCE_S) == [(_nobody, None, None)]
    while loop.troubles.get(timeout=PATIENCE_S):
        pass
    assert loop.do(count("events")) == [1]


def test_a_disk_that_stays_full_does_not_hold_up_the_end(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    def together(connection: sqlite3.Connection, batch: Any) -> Outcomes:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(module, "together", together)
    loop.writer.jobs.put([(Change((received(1),)), _nobody)])
    loop.troubles.get(timeout=PATIENCE_S)
    loop.writer.hurry()
    ((_, _, error),) = loop.told.get(timeout=PATIENCE_S)
    assert isinstance(error, StateError)
    assert "not written before the agent ended" in str(error)


def test_what_nobody_has_foreseen_fails_one_transaction_and_ends_nothing(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module, "each_alone", lambda connection, batch: 1 / 0)
        patched.setattr(module, "together", lambda connection, batch: 1 / 0)
        (error,) = loop.do(Change((received(1),)))
    assert isinstance(error, StateError)
    assert "ZeroDivisionError" in str(error)
    assert loop.do(Change((received(1),)), count("events")) == [None, 1]


def test_without_a_journal_everybody_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    loop = Loop(tmp_path / "file" / "journal.db")
    loop.writer.start()
    for _ in range(2):
        first, second = loop.do(Change((received(1),)), count("events"))
        assert isinstance(first, StateError)
        assert isinstance(second, StateError)
    (tmp_path / "file").unlink()
    assert loop.do(Change((received(1),)), count("events")) == [None, 1]
    loop.writer.end()
    loop.writer.join(PATIENCE_S)


@pytest.mark.parametrize(
    ("error", "damage", "trouble"),
    [
        (sqlite3.DatabaseError("database disk image is malformed"), True, False),
        (sqlite3.DatabaseError("file is not a database"), True, False),
        (sqlite3.OperationalError("malformed database schema (x)"), True, False),
        (sqlite3.OperationalError("malformed JSON"), False, False),
        (sqlite3.OperationalError("no such table: events"), False, False),
        (sqlite3.IntegrityError("UNIQUE constraint failed: events.place"), False, False),
        (sqlite3.ProgrammingError("Incorrect number of bindings supplied"), False, False),
        (sqlite3.OperationalError("database or disk is full"), False, True),
        (sqlite3.OperationalError("disk I/O error"), False, True),
        (sqlite3.OperationalError("database is locked"), False, True),
        (sqlite3.OperationalError("attempt to write a readonly database"), False, True),
        (OSError("no"), False, False),
        (ValueError("malformed"), False, False),
    ],
)
def test_errors_are_told_apart(error: Exception, damage: bool, trouble: bool) -> None:
    assert (is_damage(error), is_trouble(error)) == (damage, trouble)


def test_rows_keep_what_they_hold(loop: Loop) -> None:
    loop.do(Change((received(1, body=b"\0\xff" * 10),)))
    (event,) = loop.do(lambda connection: connection.execute("SELECT event FROM events").fetchone()[0])
    assert event == received(1, body=b"\0\xff" * 10).event
    assert encode(b"") != event
