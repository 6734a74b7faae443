"""Whole files as events: which are taken, when, and what becomes of them. Real folders, the real inotify; the agent is a fake."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from edgehost import inotify
from edgehost.errors import TriggerError
from edgehost.event import Event, Response, failure
from edgehost.manifest.conversion import to_struct
from edgehost.manifest.problem import Mistake
from edgehost.triggers.file import FileTrigger, whole, writers
from edgehost.triggers.file.settings import FileSettings
from edgehost.triggers.file.whole import in_calendar

Until = Callable[[Callable[[], object]], Awaitable[None]]


class Inbox:
    """A watched folder, its trigger (started anew by `again`, as after a restart) and what came of it."""

    def __init__(self, make_host: Callable[..., Any], folder: Path, state: Path) -> None:
        self.folder, self.state = folder, state
        self._make_host = make_host
        self.host: Any = None
        self.trigger: FileTrigger | None = None

    async def watch(self, answer: Any = None, **settings: Any) -> Any:
        given = {"path": str(self.folder), "rescan_s": 0.1, "settle_s": 0.03, **settings}
        self.host = self._make_host(**({"answer": answer} if answer else {}))
        self.host.agent.config = replace(self.host.agent.config, state=self.state)
        self.trigger = FileTrigger(to_struct(given, FileSettings), self.host)
        await self.trigger.start()
        return self.host

    async def again(self, answer: Any = None, **settings: Any) -> Any:
        await self.stop()
        return await self.watch(answer, **settings)

    async def stop(self) -> None:
        if self.trigger is not None:
            await asyncio.wait_for(self.trigger.stop(), 20)
            self.trigger = None

    def put(self, name: str, body: bytes = b"x") -> Path:
        """As a careful writer does: elsewhere, then moved in."""
        hidden = self.folder.parent / f"put-{time.monotonic_ns()}"
        hidden.write_bytes(body)
        return hidden.rename(self.folder / name)

    @property
    def got(self) -> list[tuple[str, bytes]]:
        return [(event.headers["name"], event.body) for event in self.host.events]

    @property
    def told(self) -> tuple[str, str]:
        return self.host.reports[-1] if self.host.reports else ("", "")


@pytest.fixture
async def inbox(host: Callable[..., Any], tmp_path: Path) -> AsyncIterator[Inbox]:
    folder = tmp_path / "in"
    folder.mkdir()
    made = Inbox(host, folder, tmp_path / "state")
    yield made
    await made.stop()


def gate() -> tuple[asyncio.Event, Callable[[Event], Awaitable[Response]]]:
    opened = asyncio.Event()

    async def answer(event: Event) -> Response:
        await opened.wait()
        return Response(200)

    return opened, answer


async def fails(event: Event) -> Response:
    return failure("raised", "no")


async def settle() -> None:
    """Longer than a rescan and a settling time together."""
    await asyncio.sleep(0.25)


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


@pytest.mark.parametrize("leases", [True, False])
@pytest.mark.parametrize("existing", [True, False])
async def test_a_file_that_is_still_written_is_not_taken_half(
    inbox: Inbox, until: Until, monkeypatch: pytest.MonkeyPatch, leases: bool, existing: bool
) -> None:
    if not leases:  # as on NFS: nobody knows who writes
        monkeypatch.setattr("edgehost.triggers.file.whole.is_being_written", lambda descriptor: None)
    if not existing:
        await inbox.watch(settle_s=0.4)
        await settle()
    with (inbox.folder / "slow").open("wb", buffering=0) as file:
        if existing:
            await inbox.watch(settle_s=0.4)
        for _ in range(5):
            file.write(b"piece ")
            await asyncio.sleep(0.1)
            assert inbox.got == []
    await until(lambda: inbox.got)
    assert inbox.got == [("slow", b"piece " * 5)]


async def test_a_lease_tells_who_writes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb"):
        reading = os.open(path, os.O_RDONLY)
        assert writers.is_being_written(reading) is True
    assert writers.is_being_written(reading) is False
    os.close(reading)
    read, write = os.pipe()  # has no leases
    assert writers.is_being_written(read) is None
    os.close(read)
    os.close(write)


def test_a_lease_that_a_server_does_not_give_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS and SMB refuse a lease with EAGAIN also where nobody writes."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    for magic in (0x6969, 0xFE534D42):
        with path.open("rb") as reading, path.open("ab"):
            assert writers.is_being_written(reading.fileno()) is True
            with monkeypatch.context() as patch:
                patch.setattr(writers, "_file_system", lambda descriptor, magic=magic: magic)
                assert writers.is_being_written(reading.fileno()) is None
    with Path("/proc/version").open() as proc:
        assert writers._file_system(proc.fileno()) == 0x9FA0


def test_what_is_heard_of_writers() -> None:
    heard = writers.Writers()
    assert not heard.busy_with("/in/a", 0)
    heard.begin("/in/a", created=True)
    assert heard.busy_with("/in/a", 0)
    assert not heard.busy_with("/in/a", 5), "a link to a whole file: nobody will close it"
    heard.begin("/in/a", created=False)
    assert heard.busy_with("/in/a", 5)
    heard.end("/in/a")
    assert not heard.busy_with("/in/a", 0)
    for path in ("/in/a", "/in/sub/b", "/in/subway"):
        heard.begin(path, created=False)
    heard.forget("/in/sub")
    assert [heard.busy_with(path, 1) for path in ("/in/a", "/in/sub/b", "/in/subway")] == [True, False, True]
    heard.forget("/in")
    assert not heard.busy_with("/in/a", 1)


@pytest.fixture
def no_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for files of another user."""
    monkeypatch.setattr("edgehost.triggers.file.whole.is_being_written", lambda descriptor: None)


async def test_another_users_file_is_taken_when_it_is_closed_however_slowly_it_is_written(
    inbox: Inbox, until: Until, no_leases: None
) -> None:
    inbox.put("again", b"whole. ")
    await inbox.watch()
    await until(lambda: inbox.got)
    with (inbox.folder / "new").open("wb", buffering=0) as new, (inbox.folder / "again").open("ab", buffering=0) as again:
        for _ in range(2):
            await settle()
            for file in (new, again):
                file.write(b"line ")
        await settle()
        assert inbox.got == [("again", b"whole. ")]
    await until(lambda: len(inbox.got) == 3)
    assert sorted(inbox.got) == [("again", b"whole. "), ("again", b"whole. line line "), ("new", b"line line ")]


async def test_another_users_file_nothing_was_heard_of_must_hold_still(inbox: Inbox, until: Until, no_leases: None) -> None:
    with (inbox.folder / "there").open("wb", buffering=0) as file:
        file.write(b"half")
        await inbox.watch(settle_s=0.1)
        await until(lambda: inbox.got)
    elsewhere = inbox.folder.parent / "elsewhere"
    elsewhere.write_bytes(b"whole")
    os.link(elsewhere, inbox.folder / "link")  # created, and nobody will close it
    await until(lambda: ("link", b"whole") in inbox.got)


async def test_after_lost_notices_a_file_must_hold_still(
    inbox: Inbox, until: Until, no_leases: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await inbox.watch()
    await until(lambda: inbox.told[0] == "running")
    path = inbox.folder / "file"
    with path.open("wb", buffering=0) as file:
        file.write(b"whole")
        await settle()
        assert inbox.got == []
        real = inotify.Inotify.read
        lost = [inotify.Notice(-1, inotify.QUEUE_OVERFLOW, "")]
        monkeypatch.setattr(inotify.Inotify, "read", lambda self: [real(self), lost][1])
    await until(lambda: inbox.got == [("file", b"whole")])


async def test_a_busy_writer_is_heard_a_hundred_times_a_second(
    inbox: Inbox, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    await inbox.watch(rescan_s=60)
    await until(lambda: inbox.told[0] == "running")
    reads = 0
    real = inotify.Inotify.read

    def read(self: inotify.Inotify) -> list[inotify.Notice]:
        nonlocal reads
        reads += 1
        return real(self)

    monkeypatch.setattr(inotify.Inotify, "read", read)
    begun = time.monotonic()
    with (inbox.folder / "file").open("wb", buffering=0) as file:
        for _ in range(300):
            file.write(b"x")
            await asyncio.sleep(0.001)
        took_s = time.monotonic() - begun
    await until(lambda: inbox.got)
    assert 3 < reads < took_s * 100 + 10
    assert inbox.got == [("file", b"x" * 300)]


async def test_a_flood_of_writes_is_not_told(inbox: Inbox, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehost.triggers.file.folder._DEAF_S", 0.1)
    monkeypatch.setattr("edgehost.triggers.file.folder._FLOOD", 5)
    asked: list[int] = []
    real = inotify.Inotify.watch
    monkeypatch.setattr(inotify.Inotify, "watch", lambda self, folder, what: [asked.append(what), real(self, folder, what)][1])
    await inbox.watch(rescan_s=60)
    await until(lambda: inbox.told[0] == "running")
    with (inbox.folder / "a").open("wb", buffering=0) as a, (inbox.folder / "b").open("wb", buffering=0) as b:
        await asyncio.sleep(0.05)
        for _ in range(20):
            a.write(b"x")
            b.write(b"x")
        await until(lambda: len(asked) == 2)
        assert [bool(what & inotify.MODIFY) for what in asked] == [True, False]
    await until(lambda: len(inbox.got) == 2)
    await until(lambda: len(asked) == 3)
    assert asked[2] == asked[0]


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


async def test_what_came_while_it_was_away_is_taken(inbox: Inbox, until: Until) -> None:
    inbox.put("before")
    await inbox.watch(existing=False)
    await settle()
    await inbox.stop()
    inbox.put("meanwhile")
    await inbox.watch(existing=False)
    await until(lambda: inbox.got)
    await settle()
    assert inbox.got == [("meanwhile", b"x")]


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


async def test_trouble_of_what_is_no_longer_there_ends(inbox: Inbox, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    sub, closed = inbox.folder / "sub", inbox.folder / "closed"
    for folder in (sub, closed):
        folder.mkdir()
    (sub / "bad").write_bytes(b"x")
    real, scan = os.read, os.scandir

    def read(descriptor: int, size: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "bad":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, size)

    def scandir(folder: str) -> Any:
        if folder == str(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scan(folder)

    monkeypatch.setattr("edgehost.triggers.file.whole.os.read", read)
    monkeypatch.setattr("edgehost.triggers.file.folder.os.scandir", scandir)
    await inbox.watch(recursive=True)
    await until(lambda: "and 1 more" in inbox.told[1])
    await settle()
    assert inbox.told[0] == "degraded", "what is there stays told"
    sub.rename(inbox.folder.parent / "away")
    await until(lambda: inbox.told == ("degraded", f"{closed} cannot be read: Permission denied; give this user the right to"))
    closed.rmdir()
    await until(lambda: inbox.told == ("running", str(inbox.folder)))


async def test_watches_that_are_there_again_are_told_no_more(inbox: Inbox, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: inotify.Inotify, folder: str, what: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(inotify.Inotify, "watch", none_left)
    await inbox.watch()
    await until(lambda: inbox.told[0] == "running")
    assert "the kernel does not tell of every change (No space left" in inbox.told[1]
    monkeypatch.undo()
    await until(lambda: inbox.told == ("running", str(inbox.folder)))


async def test_a_folder_that_is_not_there_yet_goes_and_comes_back(inbox: Inbox, until: Until) -> None:
    inbox.folder.rmdir()
    await inbox.watch(when_done="move", done_folder="done")
    await until(lambda: inbox.told[0] == "degraded")
    assert inbox.told[1] == f"{inbox.folder} is not there (No such file or directory); create the folder or mend path"
    assert not inbox.folder.exists()
    for _ in range(2):
        inbox.folder.mkdir()
        await until(lambda: inbox.told[0] == "running")
        before = len(inbox.got)
        inbox.put("file")
        await until(lambda before=before: len(inbox.got) == before + 1)  # type: ignore[misc]
        inbox.folder.rename(inbox.folder.with_name(f"away{before}"))
        await until(lambda: inbox.told[0] == "degraded")
        assert "moved away" in inbox.told[1]
    inbox.folder.write_text("a file")
    await until(lambda: "is not a folder" in inbox.told[1])


async def test_another_folder_in_its_place_is_noticed(inbox: Inbox, until: Until) -> None:
    aside = inbox.folder.with_name("aside")
    aside.mkdir()
    (aside / "theirs").write_bytes(b"x")
    await inbox.watch()
    await until(lambda: inbox.told[0] == "running")
    inbox.folder.rename(inbox.folder.with_name("old"))
    aside.rename(inbox.folder)
    await until(lambda: inbox.got)


async def test_folders_below(inbox: Inbox, until: Until) -> None:
    deep = inbox.folder / "1" / "2"
    deep.mkdir(parents=True)
    (deep / "a").write_bytes(b"a")
    await inbox.watch(recursive=True, rescan_s=60)
    await until(lambda: len(inbox.got) == 1)
    (deep / "b").write_bytes(b"b")
    fresh = inbox.folder / "3" / "4"
    fresh.mkdir(parents=True)
    (fresh / "c").write_bytes(b"c")  # perhaps before its folder was watched
    await until(lambda: len(inbox.got) == 3)
    (inbox.folder / "1").rename(inbox.folder / "5")
    await asyncio.sleep(0.1)
    (inbox.folder / "5" / "2" / "d").write_bytes(b"d")
    await until(lambda: ("d", b"d") in inbox.got)
    assert {event.path for event in inbox.host.events if event.body in (b"a", b"b", b"c", b"d")} >= {"1/2/a", "3/4/c", "5/2/d"}


async def test_a_file_system_that_tells_nothing(inbox: Inbox, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("edgehost.triggers.file.folder.Inotify", none_left)
    await inbox.watch()
    await until(lambda: inbox.told[0] == "running")
    assert "the kernel does not tell of changes" in inbox.told[1]
    inbox.put("file")
    await until(lambda: inbox.got)


async def test_lost_notices_are_made_up_for(inbox: Inbox, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    await inbox.watch(rescan_s=60)
    await until(lambda: inbox.told[0] == "running")
    monkeypatch.setattr(inotify.Inotify, "read", lambda self: [os.read(self.fileno(), 65536), overflow][1:])
    overflow = inotify.Notice(-1, inotify.QUEUE_OVERFLOW, "")
    inbox.put("file")
    await until(lambda: inbox.got)
    assert inbox.host.counts["overflows"] >= 1


async def test_thousands_of_files_at_once(inbox: Inbox, until: Until) -> None:
    for number in range(2_000):
        (inbox.folder / str(number)).write_bytes(b"%d" % number)
    in_hand = 0

    async def answer(event: Event) -> Response:
        nonlocal in_hand
        in_hand += 1
        most.append(in_hand)
        await asyncio.sleep(0)
        in_hand -= 1
        return Response(200)

    most: list[int] = []
    await inbox.watch(answer, when_done="delete", max_in_flight=8)
    for number in range(2_000, 4_000):
        (inbox.folder / str(number)).write_bytes(b"%d" % number)
        if number % 100 == 0:
            await asyncio.sleep(0)
    await until(lambda: not os.listdir(inbox.folder))  # noqa: PTH208
    assert sorted(int(body) for _, body in inbox.got) == list(range(4_000))
    assert max(most) <= 8


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


TOGETHER = 'when_done = "move" and done_folder go together; give both or neither'
TAIL = {"path": "x", "mode": "tail"}


@pytest.mark.parametrize(
    ("settings", "place", "text"),
    [
        ({}, "path", "missing; write text that is not empty"),
        ({"path": "x", "pattern": "a/*"}, "pattern", "'a/*' is about names, not paths; use path and recursive for folders"),
        ({"path": "x", "when_done": "move"}, "done_folder", TOGETHER),
        ({"path": "x", "done_folder": "d"}, "done_folder", TOGETHER),
        ({"path": "x", "framing": "line"}, "framing", 'goes with mode = "tail"; a whole file is not cut'),
        ({"path": "x", "when_done": "burn"}, "when_done", '"burn" is not allowed; use "delete", "keep" or "move"'),
        ({"path": "x", "max_waiting": 1}, "max_waiting", None),
        (TAIL | {"when_done": "delete"}, "when_done", 'goes with mode = "whole"; a file that is still written stays where it is'),
        (TAIL | {"framing": "slip"}, "framing", 'tail needs "line", or a delimiter with an end: a restart goes on after one'),
    ],
)
def test_refused_settings(settings: dict[str, Any], place: str, text: str | None) -> None:
    with pytest.raises(Mistake) as caught:
        to_struct(settings, FileSettings)
    assert caught.value.path == (place,)
    assert text is None or caught.value.text == text


def test_notices_are_read_as_the_kernel_writes_them() -> None:
    data = b"".join(
        inotify._HEAD.pack(watch, what, 0, len(name)) + name
        for watch, what, name in [(1, inotify.CLOSE_WRITE, b"a\0\0\0"), (-1, inotify.QUEUE_OVERFLOW, b""), (2, 8, b"\xff\0\0\0")]
    )
    assert list(inotify.notices(data)) == [
        inotify.Notice(1, inotify.CLOSE_WRITE, "a"),
        inotify.Notice(-1, inotify.QUEUE_OVERFLOW, ""),
        inotify.Notice(2, 8, "\udcff"),
    ]
