"""Files that somebody still writes, this user or another: none is taken half."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from edgehost import inotify
from edgehost.triggers.file import writers
from tests.triggers.file.conftest import Inbox, Until, settle


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
