"""Opens the journal's file, whatever state it is in. Called in the journal's thread; knows SQLite and files, no events.

    missing                     made
    whole                       migrated to this version
    damaged, or no journal      what can still be read is copied into a new one; then that takes its place, and the damaged
                                one lies beside it as journal.db.damaged-N
    missing, its log is there   the log has what came last: it is read as a database, whole or damaged
    gone or replaced in use     what the open one holds is copied to where it belongs (`rescue`)
    a link                      what it leads to is meant; one that leads nowhere is a StateError
    of a newer edgehost         StateError, untouched
    in use by another agent     StateError
    folder not writable         StateError

A new one is made ready as journal.db.new, and only its renaming counts: after a crash, or with no room for it, the damaged one is
in its place as before. The newest _KEPT damaged files stay for a person to look at; the disk ladder may take them earlier.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from edgehost.delivery.pages import Pages
from edgehost.delivery.salvage import hold_numbers, salvage
from edgehost.delivery.schema import found_version, migrate
from edgehost.delivery.sqlite_errors import is_damage
from edgehost.errors import StateError

_LOGS = ("-wal", "-shm", "-journal")
_KEPT = 2
_CACHE_KIB = 512
_WAL_BYTES = 4 * 1024 * 1024
_EMPTY_PAGE = bytes(4096)


def open_journal(path: Path, relaxed: bool, broken: str = "") -> tuple[sqlite3.Connection, list[str]]:
    """The journal at `path`, checked, and what had to be mended, one line each for people. `broken`: why it is to be taken for
    damaged, whatever the check says.

    Raises StateError when there can be none now.
    """
    try:
        path = _meant(path)
        notes = _tidied(path)
        broken = broken or ("it is no file" if path.exists() and not path.is_file() else "")
        if not broken:
            try:
                return _whole(path, relaxed), notes
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                broken = str(error)
        notes.append(_renewed(path, broken))
        return _whole(path, relaxed), notes
    except sqlite3.Error as error:
        raise StateError(_in_words(path, error)) from error
    except OSError as error:
        raise StateError(f"{path} cannot be used: {error}; let this user write in {path.parent}") from error


def rescue(connection: sqlite3.Connection, path: Path) -> str:
    """Copy what an open journal holds to where it belongs: the file under it has been deleted, or another one put in its place.

    Gives what happened, for people. The connection is of no use after that. Raises sqlite3.Error, OSError or StateError, and has
    changed nothing then.
    """
    path = _meant(path)
    fresh = _new_beside(path)
    with closing(_private(fresh)) as copy:
        connection.backup(copy)
    told = _in_place_of(path, fresh)
    return f"{path.name} was deleted or replaced while it was in use{told}; all it held is written anew"


def _meant(path: Path) -> Path:
    """Where the journal lies: what belongs to a file lies beside it, and not beside a link to it."""
    if path.is_symlink():
        target = path.resolve()
        if not target.parent.is_dir():
            raise StateError(f"{path} is a link to {target}, where no folder is; mount that disk, or remove the link")
        return target
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StateError(f"{path.parent} cannot be made: {error.strerror}; name another folder in [agent].state") from error
    return path


def _tidied(path: Path) -> list[str]:
    """Finish or undo what a crash has left of `_in_place_of`, and see to a log without its database."""
    fresh = path.with_name(f"{path.name}.new")
    if path.is_file() and path.stat().st_size:
        _remove(fresh)
        return []
    if fresh.exists() and not path.exists():
        _logs_aside(path, _aside(path))
        fresh.rename(path)
        return [f"{path.name} was damaged and is made anew; the work was broken off and is finished now"]
    wal = path.with_name(f"{path.name}-wal")
    if (path.is_file() or not path.exists()) and wal.is_file() and wal.stat().st_size:
        path.write_bytes(_EMPTY_PAGE)  # SQLite deletes the log of a database that is empty; of this one it reads it
        return [f"{path.name} was missing or empty; what its log held is still there"]
    return []


def _whole(path: Path, relaxed: bool) -> sqlite3.Connection:
    connection = _connect(path, relaxed)
    try:
        migrate(connection)
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != ("ok",):
            raise sqlite3.DatabaseError(f"malformed: {verdict[0] if verdict else 'it cannot be checked'}")
        return connection
    except BaseException:
        connection.close()
        raise


def _connect(path: Path, relaxed: bool) -> sqlite3.Connection:
    if not path.exists():
        path.touch(0o600)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64, timeout=0.5)
    try:
        # One agent alone: the lock is held to the end, and the WAL's index lies in memory instead of a file beside it.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        if found_version(connection) == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'NORMAL' if relaxed else 'FULL'}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    connection.text_factory = _text
    with suppress(OSError):  # somebody else's file that we may write: theirs to say who reads it
        path.chmod(0o600)
    return connection


def _text(raw: bytes) -> str:
    """A text that is damaged is a value like another, and not an error of the whole question."""
    return raw.decode("utf-8", "replace")


def _in_words(path: Path, error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return f"{path} is in use by another agent; end that one, or give this one another folder in edgehost.toml [agent].state"
    if "unable to open" in text or "readonly" in text:
        return f"{path} cannot be opened ({text}); let this user write in {path.parent}, or name another folder in [agent].state"
    return f"{path} cannot be used: {text}; make room in {path.parent}, or name another folder in [agent].state"


def _renewed(path: Path, broken: str) -> str:
    """Make a new journal of what can be read of a damaged one; gives what happened, for people."""
    fresh = _new_beside(path)
    try:
        with closing(_private(fresh)) as into:
            into.execute("PRAGMA auto_vacuum = INCREMENTAL")
            migrate(into)
            saved = _saved(path, into)
            lost = hold_numbers(into)
    except (OSError, sqlite3.Error) as error:
        _remove(fresh)
        raise StateError(
            f"{path} is damaged ({broken}) and cannot be begun anew: {error}; make room in {path.parent}"
        ) from error
    told = ", ".join(f"{count} {table}" for table, count in saved.items() if count) or "nothing"
    nameless = f"; whose the rows of {len(lost)} of its queues are is not known, they stay in it unused" if lost else ""
    return f"{path.name} was damaged ({broken}){_in_place_of(path, fresh)}; saved from it: {told}{nameless}"


def _saved(path: Path, into: sqlite3.Connection) -> dict[str, int]:
    if not path.is_file():
        return {}
    with closing(Pages(path)) as pages, closing(sqlite3.connect(path, isolation_level=None)) as damaged:
        with suppress(sqlite3.Error):  # no index of the log beside it; if even that cannot be said, there is nothing to read
            damaged.execute("PRAGMA locking_mode = EXCLUSIVE")
        return salvage(damaged, pages, into)


def _new_beside(path: Path) -> Path:
    fresh = path.with_name(f"{path.name}.new")
    _remove(fresh)
    fresh.touch(0o600)
    return fresh


def _private(path: Path) -> sqlite3.Connection:
    """To be written in a few large transactions and then closed: without a log, so that all of it is in the one file."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _in_place_of(path: Path, fresh: Path) -> str:
    """Put a finished file where the journal belongs; what lies there goes aside. Gives where to, for people."""
    told = ""
    aside = _aside(path)
    if path.exists() or path.is_symlink():
        path.rename(aside)
        told = f" and is set aside as {aside.name}"
    _logs_aside(path, aside)
    fresh.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return told


def _aside(path: Path) -> Path:
    """The next name to set a file aside under; the oldest of those that lie there make way."""
    name = re.compile(re.escape(path.name) + r"\.damaged-([0-9]{1,9})(?:-wal|-shm|-journal)?")
    numbers = sorted({int(found[1]) for entry in path.parent.iterdir() if (found := name.fullmatch(entry.name))})
    for number in numbers[: max(0, len(numbers) - _KEPT + 1)]:
        old = path.with_name(f"{path.name}.damaged-{number}")
        if not old.is_dir():  # a folder that somebody has put there is not ours to delete
            _remove(old)
    return path.with_name(f"{path.name}.damaged-{(numbers[-1] if numbers else 0) + 1}")


def _logs_aside(path: Path, aside: Path) -> None:
    for suffix in _LOGS:
        log = path.with_name(path.name + suffix)
        if log.exists() or log.is_symlink():
            log.rename(aside.with_name(aside.name + suffix))


def _remove(path: Path) -> None:
    for suffix in ("", *_LOGS):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
