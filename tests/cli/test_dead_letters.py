"""`edgehost dead-letters` as a person types it: what it asks of an agent, what it shows, and what it reads without one."""

from __future__ import annotations

import asyncio
import base64
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from edgehost.cli.letter_view import table
from edgehost.delivery.journal import Journal
from edgehost.delivery.rows import Change, DeadRow
from edgehost.errors import ControlError
from edgehost.event import Event, Origin
from edgehost.letter import Letter, Letters, Which, WholeLetter
from edgehost.parcel import Parcel

FAILED = datetime(2026, 11, 26, 16, 54, 39).timestamp()
EVENT = Letter(12, "pump", "in", "", "e12", "raised", "Traceback\n  x\nValueError: no\n", 3, FAILED - 60, FAILED, 3700.0, 80)
MESSAGE = Letter(11, "pump", "", "up", "e9/up", "output_failed", "http://b answered 422", 1, FAILED, FAILED, 3.0, 40)
WHOLE = {
    12: WholeLetter(
        EVENT,
        Event(
            b"\xc3\xa9 \x1b[31m",
            "text/plain",
            "e12",
            trigger=Origin("mqtt", "in"),
            headers={"A": "b"},
            topic="t/1",
            fields={"n": "1"},
        ),
    ),
    11: WholeLetter(MESSAGE, None, Parcel("http://b/x", b"\xff\x00", id="e9/up", headers={"C": "d"})),
}


class Desk:
    """An agent's dead letters by rote: 12 and 11, or what `found` says. `asked` is what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Which, int]] = []
        self.found = Letters([EVENT, MESSAGE], 2, {"pump": 2})
        self.refusal = ""

    async def find(self, which: Which, limit: int) -> Letters:
        self.asked.append(("find", which, limit))
        if which.function == "none":
            return Letters([], 0)
        return replace(self.found, letters=self.found.letters[:limit])

    async def whole(self, number: int) -> WholeLetter:
        if number not in WHOLE:
            raise ControlError(f"there is no dead letter {number}")
        return WHOLE[number]

    async def done(self, what: str, which: Which) -> int:
        self.asked.append((what, which, 0))
        if self.refusal:
            raise ControlError(self.refusal)
        if which.function == "none" or not self.found.matching:
            return 0
        return 2 if which.every else 1


@pytest.fixture
def desk(agent: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    desk = Desk()
    monkeypatch.setenv("EDGEHOST_SOCKET", str(agent))
    host = "tests.cli.conftest.Host."
    monkeypatch.setattr(f"{host}find_letters", lambda self, which, limit: desk.find(which, limit), raising=False)
    monkeypatch.setattr(f"{host}whole_letter", lambda self, number: desk.whole(number), raising=False)
    monkeypatch.setattr(f"{host}replay_letters", lambda self, which: desk.done("replay", which), raising=False)
    monkeypatch.setattr(f"{host}drop_letters", lambda self, which: desk.done("drop", which), raising=False)
    yield desk


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_list_shows_what_failed_where_and_why(cli: Any, desk: Desk) -> None:
    told = cli("dead-letters", "list")
    assert told.code == 0 and lines(told.out) == [
        "NUMBER  FUNCTION  WHERE       FAILED               TRIES  CODE           ERROR",
        "    12  pump      trigger in  2026-11-26 16:54:39      3  raised         ValueError: no",
        "    11  pump      output up   2026-11-26 16:54:39      1  output_failed  http://b answered 422",
        "",
        "2 dead letters (pump 2); one whole: `edgehost dead-letters show NUMBER`",
    ]
    assert desk.asked == [("find", Which(), 50)]


def test_list_tells_how_many_there_are_beside_those_it_shows(cli: Any, desk: Desk) -> None:
    desk.found = Letters([EVENT], 1234, {"pump": 1000, "rtd": 234})
    assert lines(cli("dead-letters", "list", "-n", 1).out)[-1].startswith(
        "the newest 1 of 1,234 dead letters (pump 1,000, rtd 234);"
    )
    assert cli("dead-letters", "list", "-n", 0).out == "1,234 dead letters (pump 1,000, rtd 234)\n"


def test_list_without_any_says_so(cli: Any, desk: Desk) -> None:
    desk.found = Letters([], 0)
    assert cli("dead-letters", "list").out == "No dead letters.\n"
    assert cli("dead-letters", "list", "--code", "raised").out == "No dead letters.\n"
    desk.found = Letters([EVENT], 1)
    assert cli("dead-letters", "list", "--function", "none").out == (
        "No dead letter fits; `edgehost dead-letters list` shows every one.\n"
    )


def test_list_as_json(cli: Any, desk: Desk) -> None:
    told = cli("dead-letters", "list", "--json").json
    assert set(told) == {"letters", "matching", "functions"} and set(told["letters"][0]) == set(Letter.__struct_fields__)
    assert (told["matching"], told["functions"]) == (2, {"pump": 2})


FILTERS = (
    *("--function", "pump", "--trigger", "in", "--output", "up", "--kind", "message", "--code", "raised"),
    *("--event", "e1", "--text", "No such", "--older", "1h30m", "--newer", "7d"),
)


@pytest.mark.parametrize("command", ["list", "replay", "drop"])
def test_every_filter_is_asked_for(cli: Any, desk: Desk, command: str) -> None:
    assert cli("dead-letters", command, *FILTERS, *(("--yes",) if command == "drop" else ())).code == 0
    assert desk.asked[0][1] == Which(
        function="pump", trigger="in", output="up", kind="message", code="raised", event_id="e1", text="No such",
        older_s=5400.0, newer_s=604800.0,
    )  # fmt: skip


def test_show_is_all_of_an_event_that_people_can_read(cli: Any, desk: Desk) -> None:
    told = cli("dead-letters", "show", 12)
    assert told.code == 0 and lines(told.out) == [
        "dead letter 12  event of pump",
        "",
        "id        e12",
        "trigger   in (mqtt)",
        "failed    2026-11-26 16:54:39, 1 h 1 min ago, after 3 attempts: raised",
        "received  2026-11-26 16:53:39",
        "topic     t/1",
        "fields    n=1",
        "header    A: b",
        "",
        "error",
        "  Traceback",
        "    x",
        "  ValueError: no",
        "",
        "body  8 bytes, text/plain",
        "  é \ufffd[31m",
    ]


def test_show_is_all_of_a_message(cli: Any, desk: Desk) -> None:
    told = lines(cli("dead-letters", "show", 11).out)
    assert told[0] == "dead letter 11  message of pump"
    assert "output     up" in told and "to         http://b/x" in told and "header     C: d" in told
    assert told[-1] == "  it is not text; `edgehost dead-letters show 11 --body > FILE` saves it"


def test_show_as_json_has_the_body_as_text_or_in_base64(cli: Any, desk: Desk) -> None:
    told = cli("dead-letters", "show", 12, "--json").json
    assert set(told) == {"letter", "event"} and told["letter"]["error"] == EVENT.error
    assert told["event"]["body"] == "é \x1b[31m" and told["event"]["trigger"] == {"kind": "mqtt", "name": "in"}
    told = cli("dead-letters", "show", 11, "--json").json
    assert base64.b64decode(told["message"]["body_base64"]) == b"\xff\x00" and "body" not in told["message"]


def test_show_body_is_the_body_byte_by_byte(desk: Desk, program: Any) -> None:
    command = [sys.executable, "-m", "edgehost.cli.entry", "dead-letters", "show", "11", "--body"]
    assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == b"\xff\x00"


def test_a_number_that_is_not_there_is_refused(cli: Any, desk: Desk) -> None:
    told = cli("dead-letters", "show", 99)
    assert (told.code, told.err) == (5, "edgehost: there is no dead letter 99\n")


def test_replay_says_how_many(cli: Any, desk: Desk) -> None:
    assert cli("dead-letters", "replay", 12).out == "replayed 1 dead letter\n"
    assert cli("dead-letters", "replay", "--all").out == "replayed 2 dead letters\n"
    assert cli("dead-letters", "replay", 12, 11, "--json").json == {"replayed": 1}
    assert cli("dead-letters", "replay", "--function", "none").out == "no dead letter fits: none is replayed\n"
    assert [which for _, which, _ in desk.asked[:3]] == [Which([12]), Which(every=True), Which([12, 11])]


@pytest.mark.parametrize("command", [("replay",), ("drop", "--yes")])
def test_all_of_none_is_none(cli: Any, desk: Desk, command: tuple[str, ...]) -> None:
    desk.found = Letters([], 0)
    assert cli("dead-letters", *command, "--all").out == "there are no dead letters\n"


def test_a_replay_that_is_refused_ends_with_5(cli: Any, desk: Desk) -> None:
    desk.refusal = "'rtd' is not a function here"
    told = cli("dead-letters", "replay", "--all")
    assert (told.code, told.out, told.err) == (5, "", "edgehost: 'rtd' is not a function here\n")


@pytest.mark.parametrize("command", ["replay", "drop"])
def test_all_has_to_be_said(cli: Any, desk: Desk, command: str) -> None:
    told = cli("dead-letters", command)
    assert told.code == 2 and "nothing says which dead letters are meant; give numbers or a filter, or --all" in told.err
    assert desk.asked == []


def test_drop_wants_a_yes_where_nobody_can_be_asked(cli: Any, desk: Desk) -> None:
    told = cli("dead-letters", "drop", 12)
    assert told.code == 2 and "there is nobody to ask whether they may go for good; give --yes" in told.err
    assert desk.asked == []
    assert cli("dead-letters", "drop", 12, "--yes").out == "dropped 1 dead letter\n"
    assert cli("dead-letters", "drop", "--all", "-y", "--json").json == {"dropped": 2}
    assert cli("dead-letters", "drop", "--function", "none", "-y").out == "no dead letter fits: none is dropped\n"


@pytest.mark.parametrize(
    ("answer", "code", "last"), [("y", 0, "dropped 1 dead letter"), ("n", 1, "edgehost: nothing is dropped")]
)
def test_drop_asks_a_person(desk: Desk, answer: str, code: int, last: str) -> None:
    command = [sys.executable, "-m", "edgehost.cli.entry", "dead-letters", "drop", "12"]
    keyboard, terminal = pty.openpty()
    with subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        os.write(keyboard, f"{answer}\n".encode())
        out, _ = process.communicate(timeout=60)
    os.close(keyboard)
    os.close(terminal)
    assert "Drop 2 dead letters (pump 2) for good? [y/N]" in out and out.splitlines()[-1].endswith(last)
    assert process.returncode == code
    assert [what for what, _, _ in desk.asked] == (["find", "drop"] if answer == "y" else ["find"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--older", "soon"), "'soon' is no duration; give one such as 90s, 30m, 12h or 7d"),
        (("list", "--kind", "letter"), "'letter' is no kind of dead letter; give event or message"),
        (("replay", *map(str, range(501))), "501 numbers are more than 500"),
        (("show", "x"), "invalid value for 'NUMBER'"),
    ],
)
def test_a_mistake_is_one_line(cli: Any, arguments: tuple[str, ...], message: str) -> None:
    told = cli("dead-letters", *arguments)
    assert (told.code, told.out, len(told.err.splitlines())) == (2, "", 1) and message in told.err


def test_without_a_subcommand_it_shows_them(cli: Any) -> None:
    told = cli("dead-letters")
    assert told.code == 2 and all(name in told.out for name in ("list", "show", "replay", "drop")) and told.err == ""


def test_without_an_agent_it_says_where_to_read(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHOST_SOCKET", str(tmp_path / "nobody.sock"))
    told = cli("dead-letters", "list")
    assert told.code == 4 and "no agent answers at" in told.err and "--file" in told.err and "journal.db" in told.err


async def write(path: Path) -> None:
    journal = Journal(path)
    await journal.open()
    body = msgspec.msgpack.encode(Event(b"hello", id="e1", trigger=Origin("mqtt", "in")))
    row = DeadRow("pump", "in", "", "e1", "raised", "ValueError: no", 3, FAILED, FAILED, journal.now(), body)
    await journal.committed(Change(dead=(row,)))
    await journal.close()


def test_a_file_is_read_without_an_agent(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "odd name?.db"
    asyncio.run(write(path))
    before = path.read_bytes()
    assert lines(cli("dead-letters", "list", "--file", path).out)[1].endswith("raised  ValueError: no")
    assert cli("dead-letters", "list", "--file", path, "--older", "1h").out.startswith("No dead letter")
    assert cli("dead-letters", "show", 1, "--file", path, "--json").json["event"]["body"] == "hello"
    assert cli("dead-letters", "show", 2, "--file", path).code == 5
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_read_says_why(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"")
    assert "is empty: no agent has written to it" in cli("dead-letters", "list", "--file", path).err
    path.write_bytes(b"not a database at all" * 99)
    told = cli("dead-letters", "list", "--file", path)
    assert told.code == 1 and "cannot be read: file is not a database; give the journal.db of an agent" in told.err
    path.unlink()
    asyncio.run(write(path))
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        holder.execute("DELETE FROM dead")
        told = cli("dead-letters", "list", "--file", path)
        holder.execute("ROLLBACK")
    holder.close()
    assert told.code == 1 and "is in use by an agent; ask that one: without --file" in told.err


def test_a_narrow_terminal_cuts_the_error_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    Console(width=80, highlight=False).print(table(Letters([replace(EVENT, error="long " * 50)], 1, {"pump": 1})))
    shown = lines(capsys.readouterr().out)
    assert shown[1].startswith("    12  pump      trigger in  2026-11-26 16:54:39      3  raised  long") and shown[1].endswith(
        "…"
    )


def test_an_event_without_a_time_or_error_is_shown_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    from edgehost.cli import terminal

    letter = replace(EVENT, error="", failed=0.0, trigger="")
    terminal.console().print(table(Letters([letter], 1, {"pump": 1})))
    assert lines(capsys.readouterr().out)[1] == "    12  pump      -      -           3  raised"


def test_show_reads_events_of_every_source(cli: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    event = Event(
        b"",
        "",
        "e",
        datetime(2026, 1, 1, tzinfo=timezone.utc),
        Origin("http", "web"),
        "/deep",
        {},
        "PUT",
        "http://h/deep",
        type="T",
    )
    monkeypatch.setitem(WHOLE, 12, WholeLetter(EVENT, event))
    told = lines(cli("dead-letters", "show", 12).out)
    assert {"method    PUT", "path      /deep", "url       http://h/deep", "type      T"} <= set(told) and told[-1] == "no body"
