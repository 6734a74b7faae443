"""Folders that come, go and are looked through, and a kernel that does not tell everything."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from edgehost import inotify
from edgehost.event import Event, Response
from tests.triggers.file.conftest import Inbox, Until, settle


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
