"""The journal's side in the loop: opened once, told to everybody, closed for good, and never a future left behind."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgehost.delivery.journal import Journal
from edgehost.delivery.rows import Change, first_place
from edgehost.errors import StateError
from tests.delivery.samples import contents, dead, fill, received

PATIENCE_S = float(os.environ.get("EDGEHOST_TEST_PATIENCE_S", "30"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
async def journals(whole_again: None, path: Path) -> AsyncIterator[Callable[[], Journal]]:
    """`journals()`: a journal at `path`, closed at the end; no thread of it is left."""
    made: list[Journal] = []

    def make() -> Journal:
        made.append(Journal(path))
        return made[-1]

    yield make
    for one in made:
        await one.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "journal"]


async def soon(what: Any) -> Any:
    return await asyncio.wait_for(what, PATIENCE_S)


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])


async def test_one_that_nobody_needs_leaves_nothing(journals: Any, path: Path) -> None:
    one = journals()
    await asyncio.sleep(0)
    assert not path.parent.exists()
    with pytest.raises(StateError, match="was not opened"):
        await soon(one.committed(Change((received(1),))))
    await one.close()
    assert not path.parent.exists()


async def test_all_who_open_it_at_once_share_one_thread(journals: Any) -> None:
    one = journals()
    told: list[str] = []
    one.on_open.append(lambda: told.append(one.state))
    await soon(asyncio.gather(*(one.open() for _ in range(20))))
    await soon(one.open())
    assert told == ["open"]
    assert len([thread for thread in threading.enumerate() if thread.name == "journal"]) == 1


async def test_a_user_who_leaves_while_it_opens_harms_no_other(journals: Any) -> None:
    one = journals()
    first, second = asyncio.ensure_future(one.open()), asyncio.ensure_future(one.open())
    await asyncio.sleep(0)
    first.cancel()
    await soon(second)
    assert one.state == "open"


async def test_after_a_failure_the_next_user_tries_again(journals: Any, path: Path) -> None:
    path.parent.touch()
    one = journals()
    for _ in range(2):
        results = await soon(asyncio.gather(one.open(), one.open(), return_exceptions=True))
        assert [type(each) for each in results] == [StateError, StateError]
        assert one.state == "failed"
        assert str(path.parent) in one.trouble
    only = asyncio.ensure_future(one.open())
    await asyncio.sleep(0)
    only.cancel()  # nobody hears of this failure, and it must not be the next one's
    await asyncio.gather(only, return_exceptions=True)
    await asyncio.sleep(0.1)
    path.parent.unlink()
    await soon(one.open())
    assert (one.state, one.trouble) == ("open", "")
    assert await soon(one.ask(count)) == 0


async def test_in_use_by_another_agent_it_fails_and_opens_when_that_has_ended(journals: Any, path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgehost.delivery.recovery import open_journal\n"
        "c, _ = open_journal(Path(sys.argv[1]), False); print('open', flush=True); sys.stdin.read()"
    )
    one = journals()
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(path), stdin=pipe, stdout=pipe)
    assert other.stdout is not None
    await soon(other.stdout.readline())
    with pytest.raises(StateError, match=r"is in use by another agent; end that one, or give this one another folder"):
        await soon(one.open())
    await soon(other.communicate(b""))
    await soon(one.open())
    assert one.trouble == ""


async def test_changes_of_one_turn_are_one_transaction(journals: Any) -> None:
    one = journals()
    await soon(one.open())
    begun: list[str] = []
    await soon(one.ask(lambda connection: connection.set_trace_callback(begun.append)))
    await soon(asyncio.gather(*(one.committed(Change((received(n),))) for n in range(500))))
    assert len([each for each in begun if each.startswith("BEGIN")]) == 1
    assert await soon(one.ask(count)) == 500


async def test_closing_writes_what_was_handed_over_and_fails_what_comes_after(journals: Any, path: Path) -> None:
    one = journals()
    await soon(one.open())
    before = [one.committed(Change((received(n),))) for n in range(50)]
    closing_ = asyncio.ensure_future(one.close())
    await asyncio.sleep(0)
    after = [one.committed(Change((received(99),))), one.ask(count)]
    await soon(closing_)
    later = one.ask(count)
    assert [await soon(each) for each in before] == [None] * 50
    for each in (*after, later):
        with pytest.raises(StateError, match="is closed"):
            await soon(each)
    with pytest.raises(StateError, match="is closed"):
        await soon(one.open())
    assert len(contents(path)["events"]) == 50
    await soon(one.close())


async def test_closing_while_it_opens_leaves_nothing_running(journals: Any) -> None:
    one = journals()
    opening = asyncio.ensure_future(one.open())
    await asyncio.sleep(0)
    await soon(one.close())
    with pytest.raises(StateError, match="closed"):
        await soon(opening)
    assert one.state == "closed"
    assert one._marked is None


async def test_one_who_is_told_and_raises_keeps_no_other_from_being_told(journals: Any, caplog: Any) -> None:
    one = journals()
    await soon(one.open())
    one.commit(Change((received(1),)), lambda _result, _error: 1 / 0)
    await soon(one.committed(Change((received(2),))))
    assert "after a transaction" in caplog.text


async def test_places_rise_and_go_on_after_a_restart(journals: Any) -> None:
    one = journals()
    await soon(one.open())
    queue = await soon(one.queue("event", "f", "in"))
    assert await soon(one.queue("event", "f", "in")) == queue
    assert await soon(one.queue("parcel", "f", "in")) != queue
    assert one.next_place("event", queue) == one.take_places("event", queue, 3) == first_place(queue)
    assert one.take_places("event", queue) == first_place(queue) + 3
    await soon(one.committed(Change((received(7, queue),))))
    await one.close()
    other = journals()
    await soon(other.open())
    assert await soon(other.queue("event", "f", "in")) == queue
    assert other.next_place("event", queue) == first_place(queue) + 8


async def test_it_knows_which_triggers_may_have_events_on_disk(journals: Any, path: Path) -> None:
    fill(path, 20)
    one = journals()
    await soon(one.open())
    assert one.triggers_of("f") == {"in"}
    assert (one.holds("f", "in"), one.holds("g", "in"), one.holds("f", "other")) == (True, True, False)
    queue = await soon(one.queue("event", "f", "other"))
    assert not one.holds("f", "other")
    one.take_places("event", queue)
    assert one.triggers_of("f") == {"in", "other"}, "also those that this very run has put there"


async def test_its_clock_goes_on_after_a_restart(journals: Any) -> None:
    one = journals()
    await soon(one.open())
    await soon(one.committed(Change(dead=(dead(5000),))))
    before = one.now()
    await one.close()
    other = journals()
    await soon(other.open())
    assert other.now() >= max(before, 5000.0)


@pytest.mark.parametrize("what", ["mark", "written", "name"])
async def test_a_damaged_value_keeps_nothing_from_opening(journals: Any, path: Path, what: str) -> None:
    fill(path, 20)
    with closing(sqlite3.connect(path)) as connection:
        if what == "mark":
            connection.execute("UPDATE meta SET value = x'ff00'")
        elif what == "written":
            connection.execute("UPDATE written SET bytes = 'x' WHERE day = 3")
        else:
            connection.execute("UPDATE queues SET name = CAST(x'ff' AS TEXT) WHERE id = 1")
        connection.commit()
    one = journals()
    await soon(one.open())
    assert one.state == "open"
    assert one.totals.dead == 20


async def test_damage_in_use_is_told_and_what_this_run_knows_is_kept(journals: Any, path: Path, caplog: Any) -> None:
    one = journals()
    await soon(one.open())
    queue = await soon(one.queue("event", "f", "in"))
    await soon(one.committed(Change((received(1, queue),))))
    opened: list[int] = []
    one.on_open.append(lambda: opened.append(one.totals.event_bytes[queue][0]))
    path.unlink()
    await soon(one.committed(Change((received(2, queue),))))
    await soon(one.ask(count))
    await asyncio.sleep(0)
    await soon(one.ask(count))
    assert "was deleted or replaced while it was in use" in one.notes[0]
    assert one.notes[0] in caplog.text
    assert opened == [2], "what waits is counted anew"


async def test_names_of_queues_survive_a_file_that_has_lost_them(journals: Any, path: Path) -> None:
    one = journals()
    await soon(one.open())
    queue = await soon(one.queue("event", "f", "in"))
    await soon(one.committed(Change((received(1, queue),))))

    def lose(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM queues")

    def liar(connection: sqlite3.Connection) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    await soon(one.ask(lose))
    with pytest.raises(sqlite3.DatabaseError):
        await soon(one.ask(liar))
    await one.close()
    assert contents(path)["queues"] == {queue: (queue, "event", "f", "in")}


async def test_trouble_is_told_once_and_its_end_too(journals: Any, path: Path, monkeypatch: Any) -> None:
    from edgehost.delivery import writer

    one = journals()
    await soon(one.open())
    told: list[str] = []
    one.on_trouble.append(told.append)
    left = [3]
    real = writer.together

    def together(connection: sqlite3.Connection, batch: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise sqlite3.OperationalError("database or disk is full")
        return real(connection, batch)

    monkeypatch.setattr(writer, "together", together)
    await soon(one.committed(Change((received(1),))))
    assert [bool(each) for each in told] == [True, False]
    assert one.trouble == ""
