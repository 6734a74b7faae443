"""Growing files as events: appended lines, rotation in each of its ways, and places that survive a restart. Real files."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edgehost.event import Event, Response, failure
from edgehost.manifest.conversion import to_struct
from edgehost.triggers.file import FileTrigger
from edgehost.triggers.file.settings import FileSettings

Until = Callable[[Callable[[], object]], Awaitable[None]]


class Logs:
    """A folder of logs, tailed; `again` is a restart."""

    def __init__(self, make_host: Callable[..., Any], folder: Path, state: Path) -> None:
        self.folder, self.state = folder, state
        self.log = folder / "app.log"
        self._make_host = make_host
        self.host: Any = None
        self.trigger: FileTrigger | None = None

    async def watch(self, answer: Any = None, **settings: Any) -> Any:
        given = {"path": str(self.folder), "pattern": "*.log", "mode": "tail", "rescan_s": 0.1, **settings}
        self.host = self._make_host(**({"answer": answer} if answer else {}))
        self.host.agent.config = replace(self.host.agent.config, state=self.state)
        self.trigger = FileTrigger(to_struct(given, FileSettings), self.host)
        await self.trigger.start()

    async def again(self, answer: Any = None, **settings: Any) -> None:
        await self.stop()
        await self.watch(answer, **settings)

    async def stop(self) -> None:
        if self.trigger is not None:
            await asyncio.wait_for(self.trigger.stop(), 20)
            self.trigger = None

    def write(self, text: bytes, path: Path | None = None) -> None:
        with (path or self.log).open("ab") as file:
            file.write(text)

    @property
    def lines(self) -> list[bytes]:
        return [event.body for event in self.host.events]


@pytest.fixture
async def logs(host: Callable[..., Any], tmp_path: Path) -> AsyncIterator[Logs]:
    folder = tmp_path / "logs"
    folder.mkdir()
    made = Logs(host, folder, tmp_path / "state")
    yield made
    await made.stop()


async def settle() -> None:
    await asyncio.sleep(0.25)


async def test_lines_come_as_they_are_whole(logs: Logs, until: Until) -> None:
    logs.write(b"there before\n")
    await logs.watch(rescan_s=60)
    await until(lambda: logs.lines)
    logs.write(b"one\ntwo\r\nhal")
    await until(lambda: len(logs.lines) == 3)
    logs.write(b"f\n", logs.log)
    logs.write(b"other\n", logs.folder / "other.log")
    logs.write(b"not ours\n", logs.folder / "other.txt")
    await until(lambda: len(logs.lines) == 5)
    assert logs.lines[:4] == [b"there before", b"one", b"two", b"half"]
    last = logs.host.events[-1]
    assert (last.body, last.path, last.headers["name"], last.content_type) == (b"other", "other.log", "other.log", "text/plain")
    assert logs.host.reports[-1] == ("running", str(logs.folder))


async def test_only_what_is_new(logs: Logs, until: Until) -> None:
    logs.write(b"old\n")
    await logs.watch(existing=False)
    await until(lambda: logs.host.reports)
    logs.write(b"new\n")
    logs.write(b"whole\n", logs.folder / "fresh.log")
    await until(lambda: len(logs.lines) == 2)
    assert sorted(logs.lines) == [b"new", b"whole"]


async def test_a_restart_goes_on_where_it_was(logs: Logs, until: Until) -> None:
    logs.write(b"1\n2\n3 beg")
    await logs.watch()
    await until(lambda: len(logs.lines) == 2)
    await logs.stop()
    logs.write(b"un\n4\n")
    await logs.again()
    await until(lambda: len(logs.lines) == 2)
    await logs.again()
    await settle()
    assert logs.lines == []


async def test_lines_not_answered_are_read_again(logs: Logs, until: Until) -> None:
    answers = iter([Response(200), failure("stopped", "going"), failure("stopped", "going")])
    logs.write(b"1\n")
    await logs.watch(lambda event: next(answers))
    await until(lambda: len(logs.lines) == 1)
    logs.write(b"2\n3\n")
    await until(lambda: len(logs.lines) == 3)
    await logs.again()
    await until(lambda: len(logs.lines) == 2)
    assert logs.lines == [b"2", b"3"]


async def test_a_function_that_was_not_ready_gets_them_later_in_order(logs: Logs, until: Until) -> None:
    ready = False
    taken: list[bytes] = []

    def answer(event: Event) -> Response:
        if not ready:
            return failure("not_ready", "failed")
        taken.append(event.body)
        return Response(200)

    logs.write(b"".join(b"%d\n" % number for number in range(100)))
    await logs.watch(answer, max_in_flight=4)
    await until(lambda: logs.lines)
    await settle()
    ready = True
    await until(lambda: len(taken) == 100)
    assert taken == [b"%d" % number for number in range(100)]


async def test_a_failed_line_is_not_read_again(logs: Logs, until: Until) -> None:
    logs.write(b"bad\n")
    await logs.watch(lambda event: failure("raised", "no"))
    await until(lambda: logs.lines)
    await logs.again()
    await settle()
    assert logs.lines == []


@pytest.mark.parametrize("matched", [True, False])
async def test_rotation_by_rename(logs: Logs, until: Until, matched: bool) -> None:
    await logs.watch(pattern="app*" if matched else "app.log")
    logs.write(b"1\n")
    await until(lambda: len(logs.lines) == 1)
    old = logs.folder / "app.log.1"
    with logs.log.open("ab", buffering=0) as writer:
        writer.write(b"2\n")
        logs.log.rename(old)
        writer.write(b"3\n")  # the program has not been told yet
        logs.write(b"4\n")
        await until(lambda: len(logs.lines) == 4)
        writer.write(b"5\nlast")
    await until(lambda: len(logs.lines) == (5 if matched else 6))
    await settle()
    assert sorted(logs.lines) == [b"1", b"2", b"3", b"4", b"5"] + ([] if matched else [b"last"])
    assert logs.lines.index(b"2") < logs.lines.index(b"3")
    if not matched:
        await until(lambda: not any("app.log.1" in name for name in open_files()))


def open_files() -> list[str]:
    return [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]  # noqa: PTH115


@pytest.mark.parametrize("after", [b"new\n", b"longer than what stood there before\n"])
async def test_rotation_by_truncation(logs: Logs, until: Until, after: bytes) -> None:
    logs.write(b"first\nsecond\nbeg")
    await logs.watch()
    await until(lambda: len(logs.lines) == 2)
    logs.log.write_bytes(after)
    await until(lambda: len(logs.lines) == 3)
    assert logs.lines[2] == after.strip()
    assert logs.host.counts["truncated"] == 1
    await logs.again()
    await settle()
    assert logs.lines == []


async def test_another_file_of_the_same_inode_is_read_from_its_start(logs: Logs, until: Until) -> None:
    logs.write(b"old old\n")
    await logs.watch()
    await until(lambda: logs.lines)
    await logs.stop()
    logs.log.write_bytes(b"new new new\nmore\n")  # what a deleted and a new file are on ext4
    await logs.watch()
    await until(lambda: len(logs.lines) == 2)
    assert logs.lines == [b"new new new", b"more"]


async def test_a_deleted_log_is_closed(logs: Logs, until: Until) -> None:
    logs.write(b"1\nunended")
    await logs.watch()
    await until(lambda: len(logs.lines) == 1)
    logs.log.unlink()
    await until(lambda: not any("app.log" in name for name in open_files()))
    assert logs.lines == [b"1", b"unended"]
    logs.write(b"2\n")
    await until(lambda: len(logs.lines) == 3)


async def test_a_slow_function_holds_the_reading_back(logs: Logs, until: Until) -> None:
    opened = asyncio.Event()

    async def answer(event: Event) -> Response:
        await opened.wait()
        return Response(200)

    count = 30_000
    logs.write(b"".join(b"line %d\n" % number for number in range(count)))
    await logs.watch(answer, max_in_flight=8)
    await until(lambda: logs.lines)
    await settle()
    assert len(logs.lines) == 8
    opened.set()
    await until(lambda: len(logs.lines) == count)
    assert logs.lines == [b"line %d" % number for number in range(count)]
    assert logs.host.counts["dropped"] == 0


async def test_a_line_too_long_is_counted_and_the_next_is_whole(logs: Logs, until: Until) -> None:
    await logs.watch(framing={"kind": "line", "frame_limit": 100})
    logs.write(b"x" * 200_000 + b"\nnext\n")
    await until(lambda: logs.lines)
    assert (logs.lines, logs.host.counts["too_long"]) == ([b"next"], 1)


async def test_frames_with_an_end(logs: Logs, until: Until) -> None:
    logs.write(b"a;;b;;c;")
    await logs.watch(framing={"kind": "delimiter", "end": ";;"})
    await until(lambda: len(logs.lines) == 2)
    logs.write(b";d;;")
    await until(lambda: len(logs.lines) == 4)
    await logs.again(framing={"kind": "delimiter", "end": ";;"})
    logs.write(b"e;;")
    await until(lambda: logs.lines)
    assert logs.lines == [b"e"]


async def test_a_read_that_fails_is_told_until_one_works(logs: Logs, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    await logs.watch()
    logs.write(b"1\n")
    await until(lambda: logs.lines)

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("edgehost.triggers.file.tail.os.pread", pread)
        logs.write(b"2\n")
        await until(lambda: logs.host.reports[-1][0] == "degraded")
        assert logs.host.reports[-1][1] == f"{logs.log} cannot be read: Input/output error; it is tried again at every look"
    await until(lambda: logs.host.reports[-1][0] == "running")
    assert logs.lines == [b"1", b"2"]


async def test_a_log_that_cannot_be_read_and_is_deleted_is_told_no_more(
    logs: Logs, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def opened(path: str, *what: Any) -> int:
        if str(path) == str(logs.log):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *what)

    logs.log.touch()
    monkeypatch.setattr("edgehost.triggers.file.tail.os.open", opened)
    await logs.watch(rescan_s=60)
    await until(lambda: logs.host.reports and logs.host.reports[-1][0] == "degraded")
    logs.log.unlink()
    await until(lambda: logs.host.reports[-1][0] == "running")


async def test_more_files_than_it_may_hold_open(logs: Logs, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehost.triggers.file.tail._MOST_FILES", 3)
    for number in range(4):
        logs.write(b"x\n", logs.folder / f"{number}.log")
    await logs.watch()
    await until(lambda: len(logs.lines) == 3)
    await until(lambda: logs.host.reports[-1][0] == "degraded")
    assert "narrow pattern" in logs.host.reports[-1][1]
    told = len(logs.host.reports)
    await settle()
    assert {state for state, _ in logs.host.reports[told:]} <= {"degraded"}, "a look does not take it back for a moment"
    (logs.folder / "0.log").unlink()
    await until(lambda: len(logs.lines) == 4 and logs.host.reports[-1][0] == "running")
