"""Whole files as events: which are taken, when, and what becomes of them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehost.errors import TriggerError
from edgehost.event import Response, failure
from edgehost.triggers.file import whole
from edgehost.triggers.file.whole import in_calendar
from tests.triggers.file.conftest import Inbox, Until, fails, gate, settle


async def test_existing_and_new_files_come_whole_oldest_first(inbox: Inbox, until: Until) -> None:
    for number, name in enumerate(["b.txt", "a.json"]):
        os.utime(inbox.put(name, name.encode()), (1000 + number, 1000 + number))
    await inbox.watch(rescan_s=60)
    await until(lambda: len(inbox.got) == 2)
    (inbox.folder / "c.bin").write_bytes(b"ccc")
    inbox.put("d d.csv", b"")
    await until(lambda: len(inbox.got) == 4)
    assert inbox.got == [("b.txt", b"b.txt"), ("a.json", b"a.json"), ("c.bin", b"ccc"), ("d d.csv", b"")]
    assert inbox.told == ("running", str(inbox.folder))
    first, second, *_, last = inbox.host.events
    assert (first.content_type, second.content_type, last.content_type) == ("text/plain", "application/json", "text/csv")
    assert first.headers == {
        "name": "b.txt",
        "path": str(inbox.folder / "b.txt"),
        "size": "5",
        "mtime": "1970-01-01T00:16:40.000+00:00",
        "change": "new",
    }
    assert (first.path, last.url) == ("b.txt", f"file://{inbox.folder}/d%20d.csv")
    assert len({event.id for event in inbox.host.events}) == 4


async def test_kept_files_come_once_across_restarts(inbox: Inbox, until: Until) -> None:
    inbox.put("one", b"1")
    await inbox.watch()
    await until(lambda: inbox.got)
    await inbox.again()
    await settle()
    assert inbox.got == []
    inbox.put("one", b"1")
    inbox.put("two", b"2")
    await until(lambda: len(inbox.got) == 2)
    await settle()
    assert [(event.headers["name"], event.headers["change"]) for event in inbox.host.events] == [
        ("one", "changed"),
        ("two", "new"),
    ]


@pytest.mark.parametrize(("events", "expected"), [("new", [b"1", b"3"]), ("changed", [b"2"]), ("both", [b"1", b"2", b"3"])])
async def test_new_and_changed(inbox: Inbox, until: Until, events: str, expected: list[bytes]) -> None:
    await inbox.watch(events=events)
    await until(lambda: inbox.told[0] == "running")
    for body in (b"1", b"2"):
        inbox.put("file", body)
        await asyncio.sleep(0.15)
    (inbox.folder / "file").unlink()
    await asyncio.sleep(0.05)
    inbox.put("file", b"3")
    await until(lambda: len(inbox.got) == len(expected))
    await settle()
    assert [body for _, body in inbox.got] == expected


async def test_two_writes_of_one_size_in_one_tick_of_the_clock_are_two(inbox: Inbox, until: Until) -> None:
    await inbox.watch(rescan_s=60)
    await until(lambda: inbox.told[0] == "running")
    path = inbox.folder / "file"
    path.write_bytes(b"a")
    await until(lambda: inbox.got)
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"b")
    os.utime(path, ns=(stamp, stamp))
    await until(lambda: len(inbox.got) == 2)
    assert inbox.got[-1] == ("file", b"b")


async def test_done_and_failed_files_are_moved_and_never_over_another(inbox: Inbox, until: Until) -> None:
    bad = {b"bad"}
    answer = lambda event: failure("raised", "no") if event.body in bad else Response(200)  # noqa: E731
    await inbox.watch(answer, when_done="move", done_folder="done", failed_folder="../failed", recursive=True)
    await until(lambda: (inbox.folder / "done").is_dir())
    (inbox.folder / "sub").mkdir()
    await asyncio.sleep(0.05)
    for name, body in (("a.txt", b"1"), ("b.txt", b"bad"), ("sub/c.txt", b"3")):
        inbox.put(name, body)
    await until(lambda: len(inbox.got) == 3)
    inbox.put("a.txt", b"2")
    done, failed = inbox.folder / "done", inbox.folder.parent / "failed"
    await until(lambda: (done / "a-2.txt").exists() and (failed / "b.txt").exists() and (done / "sub" / "c.txt").exists())
    await settle()
    assert len(inbox.got) == 4, "what lies in done_folder is not taken again"
    assert ((done / "a.txt").read_bytes(), (done / "a-2.txt").read_bytes()) == (b"1", b"2")


async def test_a_file_is_put_away_only_after_the_answer(inbox: Inbox, until: Until) -> None:
    opened, answer = gate()
    await inbox.watch(answer, when_done="delete")
    path = inbox.put("file")
    await until(lambda: inbox.got)
    await settle()
    assert path.exists()
    opened.set()
    await until(lambda: not path.exists())
    assert inbox.got == [("file", b"x")]


async def test_a_file_replaced_while_it_is_handled_comes_again_and_is_not_deleted_unseen(inbox: Inbox, until: Until) -> None:
    opened, answer = gate()
    await inbox.watch(answer, when_done="delete")
    inbox.put("file", b"old")
    await until(lambda: inbox.got)
    inbox.put("file", b"new")
    await settle()
    opened.set()
    await until(lambda: not (inbox.folder / "file").exists())
    assert inbox.got == [("file", b"old"), ("file", b"new")]


async def test_a_failure_without_a_folder_for_it_is_not_tried_for_ever(inbox: Inbox, until: Until) -> None:
    await inbox.watch(fails, when_done="delete")
    path = inbox.put("file")
    await until(lambda: inbox.got)
    await settle()
    assert path.exists() and len(inbox.got) == 1
    inbox.put("file", b"mended")
    await until(lambda: len(inbox.got) == 2)


@pytest.mark.parametrize("code", ["stopped", "not_ready"])
async def test_what_no_function_took_comes_again(inbox: Inbox, until: Until, code: str) -> None:
    answers = [failure(code, "away")]
    await inbox.watch(lambda event: answers.pop() if answers else Response(200), when_done="delete")
    inbox.put("file")
    await until(lambda: len(inbox.got) == 2 and not list(inbox.folder.iterdir()))


async def test_large_files_come_without_their_body(inbox: Inbox, until: Until) -> None:
    await inbox.watch(size_limit="1KiB")
    inbox.put("fits", bytes(1024))
    inbox.put("large", bytes(1025))
    await until(lambda: len(inbox.got) == 2)
    fits, large = inbox.host.events
    assert (len(fits.body), "read" in fits.headers) == (1024, False)
    assert (large.body, large.headers["read"], large.headers["size"]) == (b"", "false", "1025")
    assert inbox.host.counts["too_large"] == 1


async def test_only_matching_regular_files_are_taken(inbox: Inbox, until: Until, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (inbox.folder / "link.txt").symlink_to(secret)
    os.mkfifo(inbox.folder / "pipe.txt")
    (inbox.folder / "folder.txt").mkdir()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(inbox.folder / "s.txt"))
    for name in ("no.bin", ".hidden.txt", "YES.TXT"):
        inbox.put(name)
    await inbox.watch(pattern="*.txt")
    await until(lambda: inbox.told[0] == "running")
    inbox.put("yes.txt")
    os.utime(inbox.folder / "pipe.txt")
    await until(lambda: inbox.got)
    await settle()
    assert inbox.got == [("yes.txt", b"x")]
    assert inbox.told[0] == "running"


async def test_names_that_are_no_text(inbox: Inbox, until: Until) -> None:
    await inbox.watch(when_done="keep")
    Path(os.fsdecode(os.fsencode(inbox.folder) + b"/\xff\n \xc3\xa9.txt")).write_bytes(b"odd")
    await until(lambda: inbox.got)
    event = inbox.host.events[0]
    assert event.headers["name"] == "\\xff\n é.txt"
    assert event.url.endswith("/%FF%0A%20%C3%A9.txt")
    msgspec.msgpack.encode(event)
    await inbox.again()
    await settle()
    assert inbox.got == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_a_file_that_cannot_be_read_is_told_and_tried_again(inbox: Inbox, until: Until) -> None:
    path = inbox.put("closed")
    path.chmod(0)
    await unreadable(inbox, until, lambda: path.chmod(stat.S_IRUSR))


async def test_a_file_with_a_bad_sector_is_told_and_tried_again(
    inbox: Inbox, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.put("bad")
    real = os.read

    def read(descriptor: int, size: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "bad":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, size)

    monkeypatch.setattr("edgehost.triggers.file.whole.os.read", read)
    await unreadable(inbox, until, monkeypatch.undo)


async def unreadable(inbox: Inbox, until: Until, mend: Callable[[], None]) -> None:
    await inbox.watch()
    await until(lambda: inbox.told[0] == "degraded")
    assert "cannot be read" in inbox.told[1]
    inbox.put("other")
    await until(lambda: inbox.got)
    mend()
    await until(lambda: len(inbox.got) == 2 and inbox.told[0] == "running")
    assert inbox.host.counts["unreadable"] >= 1


@pytest.mark.parametrize(
    ("mtime_ns", "told"),
    [
        (0, "1970-01-01T00:00:00.000+00:00"),
        (1_500_000_000_123_999_999, "2017-07-14T02:40:00.123+00:00"),
        (-1, "1969-12-31T23:59:59.999+00:00"),
        (253_402_300_799_999_999_999, "9999-12-31T23:59:59.999+00:00"),
        (2**80, "9999-12-31T23:59:59.999+00:00"),
        (-(2**80), "0001-01-01T00:00:00.000+00:00"),
    ],
)
def test_every_time_a_file_can_have_is_told(mtime_ns: int, told: str) -> None:
    assert in_calendar(mtime_ns) == told


@pytest.mark.parametrize("mtime_s", [300_000_000_000, -300_000_000_000])
async def test_a_file_of_no_calendars_time_is_taken_with_the_others(inbox: Inbox, until: Until, mtime_s: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        strange = Path(folder, "strange")
        strange.write_bytes(b"x")
        os.utime(strange, (mtime_s, mtime_s))
        if int(strange.stat().st_mtime) != mtime_s:
            pytest.skip("this file system keeps no such time")
        await inbox.watch(path=folder)
        await until(lambda: inbox.got)
        Path(folder, "other").write_bytes(b"y")
        await until(lambda: len(inbox.got) == 2)
        await inbox.again(path=folder)
        await settle()
        assert inbox.got == [], "what was handled is remembered"
        await inbox.stop()


async def test_what_one_file_raises_holds_up_no_other(
    inbox: Inbox, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = whole.url_of

    def url_of(path: str) -> str:
        if path.endswith("bad"):
            raise ZeroDivisionError("by zero")
        return real(path)

    monkeypatch.setattr(whole, "url_of", url_of)
    inbox.put("bad")
    await inbox.watch(max_in_flight=1)
    await until(lambda: inbox.told[0] == "degraded")
    said = "cannot be handled: ZeroDivisionError: by zero; the log says where; it is tried again at every look"
    assert inbox.told[1] == f"{inbox.folder}/bad {said}"
    assert "bad cannot be handled\nTraceback" in caplog.text
    inbox.put("other")
    await until(lambda: inbox.got == [("other", b"x")])
    monkeypatch.undo()
    await until(lambda: len(inbox.got) == 2 and inbox.told[0] == "running")


async def test_memory_that_cannot_be_saved_is_told_and_files_still_come(inbox: Inbox, until: Until, monkeypatch: Any) -> None:
    monkeypatch.setattr("edgehost.triggers.file.memory._SAVE_S", 0.05)
    await inbox.watch()
    await until(lambda: inbox.told[0] == "running")
    (inbox.state / "file").mkdir(parents=True)
    blocked = inbox.state / "file" / "echo.web.json"
    blocked.mkdir()
    inbox.put("file")
    await until(lambda: inbox.told[0] == "degraded" and inbox.got)
    assert "cannot be written" in inbox.told[1]
    blocked.rmdir()
    inbox.put("other")
    await until(lambda: inbox.told[0] == "running" and blocked.is_file())


async def test_damaged_memory_repeats_what_is_there(inbox: Inbox, until: Until) -> None:
    inbox.put("file")
    await inbox.watch()
    await until(lambda: inbox.got)
    await inbox.stop()
    (inbox.state / "file" / "echo.web.json").write_bytes(b"\0\0\0")
    await inbox.watch()
    await until(lambda: inbox.got)


async def test_a_move_that_fails_is_made_later_without_another_event(inbox: Inbox, until: Until) -> None:
    opened, answer = gate()
    await inbox.watch(answer, when_done="move", done_folder="../done")
    path = inbox.put("file")
    await until(lambda: inbox.got)
    done = inbox.folder.parent / "done"
    done.rmdir()
    done.write_text("in the way")
    opened.set()
    await until(lambda: inbox.told[0] == "degraded")
    assert "cannot be put away" in inbox.told[1] and path.exists()
    done.unlink()
    await until(lambda: (done / "file").exists() and inbox.told[0] == "running")
    assert len(inbox.got) == 1


async def test_a_stop_waits_for_what_is_in_hand_and_takes_no_more(inbox: Inbox, until: Until) -> None:
    opened, answer = gate()
    await inbox.watch(answer, max_in_flight=1, when_done="delete")
    inbox.put("one")
    await until(lambda: inbox.got)
    inbox.put("two")
    stopping = asyncio.create_task(inbox.stop())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    opened.set()
    await stopping
    assert [path.name for path in inbox.folder.iterdir()] == ["two"]
    assert len(inbox.got) == 1


async def test_a_done_folder_on_another_file_system_is_refused(inbox: Inbox, until: Until) -> None:
    shm = Path("/dev/shm")
    if shm.stat().st_dev == inbox.folder.stat().st_dev:
        pytest.skip("one file system")
    await inbox.watch(when_done="move", done_folder=str(shm))
    await until(lambda: inbox.told[0] == "degraded")
    assert "another file system" in inbox.told[1]
    with pytest.raises(TriggerError):
        inbox.trigger._files.prepare()  # type: ignore[union-attr]
