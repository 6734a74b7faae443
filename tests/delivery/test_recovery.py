"""Recovery: whatever state the journal's file is in, there is a journal or a reason why not, and what can be read is kept."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgehost.delivery import recovery
from edgehost.delivery.pages import Pages
from edgehost.delivery.recovery import open_journal, rescue
from edgehost.delivery.schema import TABLES
from edgehost.errors import StateError
from tests.delivery.samples import PAGE, contents, page_sets, readable, spoiled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """As `path`, where syncing costs nothing: hundreds of journals are mended there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder) / "state" / "journal.db"


def opened(path: Path, broken: str = "") -> list[str]:
    """Open and close it as an agent does; gives the notes."""
    connection, notes = open_journal(path, False, broken)
    with closing(connection):
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('written', 1)")
    return notes


def put(sound: Path, path: Path, data: bytes | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(sound.read_bytes() if data is None else data)


def asides(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if ".damaged-" in entry.name)


def test_a_missing_journal_is_made_for_its_owner_alone(path: Path) -> None:
    assert opened(path) == []
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert asides(path) == []


def test_a_sound_journal_is_opened_as_it_is(sound: Path, path: Path) -> None:
    put(sound, path)
    assert opened(path) == []
    after = contents(path)
    del after["meta"]["written"]
    assert after == contents(sound)


def test_flipped_bytes_cost_next_to_no_row_that_sqlite_can_still_read(sound: Path, quick: Path) -> None:
    """Each page alone, then several at once; the measure is what SQLite gives when it is asked for each row by its key."""
    whole, data, choose = contents(sound), sound.read_bytes(), random.Random(11)
    rows = sum(map(len, whole.values()))
    tried, least, lost, readable_rows = 0, rows, 0, 0
    for pages in page_sets(len(data) // PAGE, choose):
        spoilt = spoiled(data, pages, choose)
        put(sound, quick, spoilt)
        expected = readable(quick, whole)
        shutil.rmtree(quick.parent)
        put(sound, quick, spoilt)
        try:
            opened(quick, "by this test")
        except StateError as error:
            pytest.fail(f"pages {pages}: {error}")
        saved = contents(quick)
        for table, keys in expected.items():
            lost += sum(saved[table].get(key) != whole[table][key] for key in keys)
            readable_rows += len(keys)
        tried += 1
        least = min(least, sum(len(saved[table]) for table in TABLES))
        shutil.rmtree(quick.parent)
    # SQLite may give a row of a broken page whose lengths do not fit.
    assert lost <= readable_rows // 5000, f"{lost} of {readable_rows} rows that could be read"
    assert tried > 120, "the journal has become too small to prove anything"
    assert rows // 2 < least < rows, "some damage must have cost rows, and none nearly all of them"


def test_a_journal_cut_off_anywhere_is_mended(sound: Path, quick: Path) -> None:
    data = sound.read_bytes()
    cuts = [1, 15, 16, 99, 100, 511, 4095, *range(PAGE, len(data), 7 * PAGE)]
    for size in cuts:
        put(sound, quick, data[:size])
        notes = opened(quick)
        if size > 512:  # of less than a page's header nothing can be told
            assert len(notes) == 1, f"cut to {size} bytes"
            assert "set aside as journal.db.damaged-1" in notes[0]
        shutil.rmtree(quick.parent)


@pytest.mark.parametrize("data", [b"\0" * 100, b"\0" * 9000, b"garbage" * 3000, b"SQLite format 3\0", b"\xff" * 70000])
def test_what_is_no_database_is_set_aside_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
    (note,) = opened(path)
    assert "saved from it: nothing" in note
    assert path.with_name("journal.db.damaged-1").read_bytes() == data
    assert opened(path) == []


def test_an_empty_file_is_a_new_journal(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert opened(path) == []


def test_a_folder_in_its_place_is_set_aside_and_never_deleted(path: Path) -> None:
    (path / "precious").mkdir(parents=True)
    (note,) = opened(path)
    assert "it is no file" in note
    for _ in range(3):
        path.write_bytes(b"garbage" * 1000)
        opened(path)
    assert path.with_name("journal.db.damaged-1").joinpath("precious").is_dir()


def test_a_pipe_in_its_place_is_set_aside(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    assert "it is no file" in opened(path)[0]


def test_a_link_means_what_it_leads_to(sound: Path, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "disk" / "j.db"
    put(sound, target, b"garbage" * 1000)
    path.parent.mkdir()
    path.symlink_to(target)
    assert "is set aside as j.db.damaged-1" in opened(path)[0]
    assert path.is_symlink()
    assert target.with_name("j.db.damaged-1").exists()
    assert opened(path) == []


def test_a_link_to_a_disk_that_is_not_there_is_refused_and_left(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "not-mounted" / "journal.db")
    with pytest.raises(StateError, match=r"is a link to .*not-mounted.*mount that disk"):
        opened(path)
    assert path.is_symlink()
    (tmp_path / "not-mounted").mkdir()
    assert opened(path) == []


@pytest.mark.parametrize("place", ["/proc/journal/journal.db", "/proc/self/journal.db"])
def test_a_folder_that_cannot_be_written_is_a_state_error(place: str) -> None:
    with pytest.raises(StateError, match=r"\[agent\]\.state|let this user write"):
        opened(Path(place))


def torn(path: Path) -> None:
    """A journal whose agent was killed: what it wrote is in the log alone."""
    code = (
        "import os, sys; from pathlib import Path; from edgehost.delivery.recovery import open_journal\n"
        "c, _ = open_journal(Path(sys.argv[1]), False)\n"
        "c.execute('BEGIN'); c.execute(\"INSERT INTO queues VALUES (1, 'event', 'f', 'in')\")\n"
        "c.executemany('INSERT INTO events VALUES (?, ?, NULL, 0, 0)', [((1 << 40) + n, b'e' * 500) for n in range(50)])\n"
        "c.execute('COMMIT'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_log_without_its_database_gives_what_it_holds(path: Path, left: str) -> None:
    torn(path)
    path.unlink()
    if left != "nothing":
        path.touch()
    (note,) = opened(path)
    assert "missing or empty" in note
    assert len(contents(path)["events"]) == 50


def test_a_log_of_garbage_alone_harms_nothing(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("journal.db-wal").write_bytes(b"garbage" * 5000)
    opened(path)
    assert opened(path) == []


@pytest.mark.parametrize("where", ["header", "first frame", "last frame"])
def test_a_damaged_log_costs_at_most_what_it_held(path: Path, where: str) -> None:
    torn(path)
    wal = path.with_name("journal.db-wal")
    data = bytearray(wal.read_bytes())
    data[{"header": 3, "first frame": 32 + 100, "last frame": len(data) - 9}[where]] ^= 0xFF
    wal.write_bytes(data)
    opened(path)
    assert opened(path) == []


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("table", ["notes (text)", "events (id INTEGER PRIMARY KEY, name TEXT)"])
def test_a_database_of_something_else_is_set_aside(path: Path, version: int, table: str) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.executescript(f"CREATE TABLE {table}; PRAGMA user_version = {version};")
    assert "no journal" in opened(path)[0]
    with closing(sqlite3.connect(path.with_name("journal.db.damaged-1"))) as other:
        assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)


@pytest.mark.parametrize("version", [2, 9999])
def test_a_newer_journal_is_refused_and_untouched(path: Path, sound: Path, version: int) -> None:
    put(sound, path)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(StateError, match=f"is of version {version} .* written by a newer edgehost"):
        opened(path)
    assert path.read_bytes() == before
    assert asides(path) == []


def test_a_version_beyond_reason_is_damage(path: Path, sound: Path) -> None:
    put(sound, path)
    with closing(sqlite3.connect(path)) as strange:
        strange.execute("PRAGMA user_version = 16777217")
    (note,) = opened(path)
    assert "its version is 16777217" in note
    assert len(contents(path)["events"]) == len(contents(sound)["events"])


def test_a_journal_of_another_agent_is_refused_and_free_when_that_has_ended(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgehost.delivery.recovery import open_journal\n"
        "c, _ = open_journal(Path(sys.argv[1]), False); print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StateError, match="in use by another agent"):
            opened(path)
    assert opened(path) == []


def test_the_newest_two_damaged_files_stay(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("journal.db.damaged-x1").write_text("somebody's own")
    for number in range(1, 6):
        path.write_bytes(b"garbage %d" % number * 1000)
        assert f"damaged-{number}" in opened(path)[0]
    assert asides(path) == ["journal.db.damaged-4", "journal.db.damaged-5", "journal.db.damaged-x1"]


class _NoRoom:
    """Stands for sqlite3.connect where the new file finds no room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = recovery.salvage

        def full(damaged: sqlite3.Connection, pages: Pages, fresh: sqlite3.Connection) -> dict[str, int]:
            real(damaged, pages, fresh)
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(recovery, "salvage", full)


def test_without_room_for_a_new_one_the_damaged_one_stays_and_is_mended_later(
    sound: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(sound)
    data = bytearray(sound.read_bytes())
    data[20 * PAGE : 21 * PAGE] = b"\xff" * PAGE
    put(sound, path, bytes(data))
    with monkeypatch.context() as patched:
        _NoRoom(patched)
        for _ in range(3):
            with pytest.raises(StateError, match="cannot be begun anew: database or disk is full; make room"):
                opened(path)
            assert sorted(entry.name for entry in path.parent.iterdir()) == ["journal.db"]
    (note,) = opened(path)
    assert "is set aside" in note
    saved = contents(path)
    assert sum(map(len, saved.values())) > 0.8 * sum(map(len, whole.values()))


@pytest.mark.parametrize("step", ["salvage", "hold_numbers", "_aside", "_logs_aside"])
def test_a_crash_while_it_is_mended_loses_nothing(
    sound: Path, path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    data = bytearray(sound.read_bytes())
    data[20 * PAGE : 21 * PAGE] = b"\xff" * PAGE
    put(sound, path, bytes(data))
    opened(path)
    expected = contents(path)
    shutil.rmtree(path.parent)
    put(sound, path, bytes(data))
    path.with_name("journal.db-wal").write_bytes(b"of the damaged one")

    class CrashError(BaseException):
        """Nothing catches it, and nothing more of edgehost runs."""

    def crash(*_: object) -> None:
        raise CrashError

    with monkeypatch.context() as patched, pytest.raises(CrashError):
        patched.setattr(recovery, step, crash)
        opened(path)
    opened(path)
    after = contents(path)
    for table in TABLES:
        assert after[table].keys() == expected[table].keys(), table


def test_a_lost_name_of_a_queue_is_never_given_to_another(sound: Path, path: Path) -> None:
    put(sound, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM queues WHERE id = 3")
        connection.commit()
    (note,) = opened(path, "by this test")
    assert "1 of its queues" in note
    queues = contents(path)["queues"]
    assert queues[1] == (1, "event", "f", "in")
    assert queues[3] == (3, "lost", "", "queue 3")
    assert len(contents(path)["events"]) == len(contents(sound)["events"])


def test_values_that_no_sound_row_holds_are_left_out(sound: Path, path: Path) -> None:
    put(sound, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE events SET at = 'x' WHERE place = 1 << 40")
        connection.execute("UPDATE events SET event = 'text' WHERE place = (1 << 40) + 2")
        connection.execute("UPDATE dead SET error = CAST(x'ff' AS TEXT) WHERE number = 1")
        connection.execute("UPDATE outbox SET until = 9e999 WHERE place = 2 << 40")
        connection.commit()
    opened(path, "by this test")
    saved = contents(path)
    assert len(saved["events"]) == len(contents(sound)["events"]) - 2
    assert len(saved["outbox"]) == len(contents(sound)["outbox"]) - 1
    assert saved["dead"][1][6] == "\ufffd"


@pytest.fixture
def held(path: Path, sound: Path) -> Iterator[sqlite3.Connection]:
    put(sound, path)
    connection, _ = open_journal(path, False)
    yield connection
    connection.close()


@pytest.mark.parametrize("how", ["deleted", "folder deleted", "replaced"])
def test_an_open_journal_is_written_anew_where_it_belongs(
    held: sqlite3.Connection, path: Path, sound: Path, how: str
) -> None:
    held.execute("INSERT INTO meta VALUES ('in the log', 1)")
    if how == "deleted":
        path.unlink()
    elif how == "folder deleted":
        shutil.rmtree(path.parent)
    else:
        path.unlink()
        path.write_bytes(b"garbage" * 1000)
    assert "all it held is written anew" in rescue(held, path)
    held.close()
    assert opened(path) == []
    after = contents(path)
    assert after["meta"]["in the log"] == ("in the log", 1)
    assert {table: len(rows) for table, rows in after.items() if table != "meta"} == {
        table: len(rows) for table, rows in contents(sound).items() if table != "meta"
    }
    if how == "replaced":
        assert path.with_name("journal.db.damaged-1").read_bytes() == b"garbage" * 1000
