"""The disk watch, on a disk that a test fills: what goes, in which order, what is refused, and that all comes back by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edgehost.config import Disk
from edgehost.delivery import disk as watching
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.disk import DiskWatch, space_of
from edgehost.delivery.journal import Journal
from edgehost.delivery.ladder import RUNGS, Space
from edgehost.delivery.leftovers import cached_bundles, delete, old_logs
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.reserve import SIZE_BYTES
from edgehost.delivery.rows import Change, ReceivedRow
from edgehost.manifest.model import Store
from edgehost.parcel import Parcel
from tests.delivery.small_disk import SmallDisk, small_disk

__all__ = ["small_disk"]

MIB = 1024 * 1024
MARKS = Disk(logs_bytes=400, bundles_bytes=300, outbox_bytes=200, refuse_bytes=100)
SIZE = 100_000


def written(path: Path, size: int, age: float) -> Path:
    """A file of `size` bytes, last written `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    os.utime(path, (1_000_000_000 - age, 1_000_000_000 - age))
    return path


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def test_old_logs_go_oldest_first_and_the_newest_of_each_folder_stays(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for age, name in [(50, "a.1"), (10, "a"), (30, "sub/b.1"), (20, "sub/b"), (70, "sub/b.2")]:
        written(logs / name, 4096, age)
    damaged = [written(tmp_path / f"journal.db.damaged-1{suffix}", 4096, 40) for suffix in ("", "-shm", "-wal")]
    written(tmp_path / "journal.db.damaged-2-wal", 4096, 35)
    written(tmp_path / "journal.db.new", 4096, 99)
    written(tmp_path / "journal.db", 4096, 99)
    written(tmp_path / "journal.db-wal", 4096, 99)
    found = old_logs(tmp_path)
    assert [tuple(path.name for path in each.paths) for each in found] == [
        ("b.2",),
        ("a.1",),
        tuple(path.name for path in damaged),
        ("journal.db.damaged-2-wal",),
        ("b.1",),
    ]
    assert delete(found, 4097) == (2, 8192)
    assert left(logs) == ["a", "sub/b", "sub/b.1"]
    assert delete(old_logs(tmp_path), 10**9) == (3, 5 * 4096)
    assert left(tmp_path) == ["journal.db", "journal.db-wal", "journal.db.new", "logs/a", "logs/sub/b"]


def test_of_bundles_the_cache_alone_goes_and_each_goes_whole(tmp_path: Path) -> None:
    cache = tmp_path / "bundles" / "cache"
    written(cache / "new" / "main.py", 4096, 0)
    written(cache / "old" / "main.py", 4096, 0)
    written(cache / "old" / "deep" / "data", 8192, 0)
    written(cache / "half.tar", 4096, 20)
    written(cache / ".going-gone" / "main.py", 4096, 0)
    for age, name in [(10, "new"), (30, "old"), (5, ".going-gone")]:
        os.utime(cache / name, (1_000_000_000 - age,) * 2)
    kept = written(tmp_path / "bundles" / "installed" / "main.py", 4096, 99)
    assert [each.paths[0].name for each in cached_bundles(tmp_path)] == [".going-gone", "old", "half.tar", "new"]
    assert delete(cached_bundles(tmp_path), 4096 + 1) == (2, 4096 + 12288)
    assert left(cache) == ["half.tar", "new/main.py"]
    delete(cached_bundles(tmp_path), 10**9)
    assert left(tmp_path) == [str(kept.relative_to(tmp_path))]


def test_what_would_free_nothing_stays(tmp_path: Path) -> None:
    outside = written(tmp_path / "outside" / "precious", 4096, 0)
    state = tmp_path / "state"
    (state / "logs").mkdir(parents=True)
    (state / "logs" / "link.1").symlink_to(outside)
    written(state / "logs" / "empty.1", 0, 99)
    os.link(outside, state / "logs" / "twin.1")
    written(state / "logs" / "now", 4096, -(10**9))
    (state / "bundles").mkdir()
    (state / "bundles" / "cache").symlink_to(outside.parent)
    assert old_logs(state) == cached_bundles(state) == []
    assert old_logs(tmp_path / "nowhere") == cached_bundles(tmp_path / "nowhere") == []


def test_what_cannot_be_deleted_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age in (30, 20, 10, 0):
        written(tmp_path / "logs" / f"{age}", 4096, age)
    unlink = Path.unlink

    def refuses(path: Path, missing_ok: bool = False) -> None:
        if path.name == "30":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuses)
    assert delete(old_logs(tmp_path), 4096) == (1, 4096)
    assert left(tmp_path / "logs") == ["0", "10", "30"]


def test_the_space_of_a_folder_that_is_not_made_yet_is_that_of_where_it_will_lie(tmp_path: Path) -> None:
    assert space_of(tmp_path / "not" / "yet").size_bytes == space_of(tmp_path).size_bytes == shutil.disk_usage(tmp_path).total


class Bench:
    """A watch over a disk whose free space the test tells."""

    def __init__(self, folder: Path, outbox_bytes: int = 10_000) -> None:
        self.free = 10_000
        self.folder = folder
        self.journal = Journal(folder / "journal.db")
        self.outbox = Outbox(self.journal, outbox_bytes, 1000.0)
        self.allowance = Allowance(1 << 20)
        self.refusals: list[str] = []
        self.allowance.on_refusal.append(lambda: self.refusals.append(self.allowance.refusal))
        self.allowance.on_room.append(lambda: self.refusals.append(self.allowance.refusal))
        self.watch = DiskWatch(folder, MARKS, self.journal, self.outbox, self.allowance, self.measure)

    def measure(self, _folder: Path) -> Space:
        return Space(self.free, SIZE)

    async def look(self, free: int) -> tuple[str, ...]:
        self.free = free
        await self.watch.look()
        return tuple(self.watch.held)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(outbox_bytes: int = 10_000) -> Bench:
        made.append(Bench(tmp_path, outbox_bytes))
        return made[-1]

    yield make
    for one in made:
        one.outbox.close()
        await one.journal.close()


async def test_each_rung_is_taken_and_left_once_and_says_so(bench: Callable[[], Bench], caplog: pytest.LogCaptureFixture) -> None:
    one = bench()
    caplog.set_level("INFO", "edgehost.disk")
    assert await one.look(400) == ()
    for _ in range(3):
        assert await one.look(399) == ("logs",)
    (line,) = caplog.messages
    assert line.startswith("399 bytes of 97.7 KiB are free, less than [disk] logs allows (400 bytes): old log files and journals")
    assert line.endswith(f"are deleted until 500 bytes are free; make room on the file system of {one.folder}")
    assert await one.look(99) == RUNGS
    assert one.allowance.reason().startswith("the disk is nearly full (99 bytes of 97.7 KiB are free): durable events are")
    assert "durable events are refused; make room" in one.watch.trouble
    assert await one.look(124) == RUNGS
    assert await one.look(125) == ("logs", "bundles", "outbox")
    assert one.allowance.reason() == ""
    assert await one.look(499) == ("logs",)
    assert await one.look(500) == ()
    assert one.watch.trouble == ""
    assert len([line for line in caplog.messages if "less than [disk]" in line]) == 4
    assert caplog.messages[-1] == "500 bytes of 97.7 KiB are free again, so [disk] logs is over"
    assert len(caplog.messages) == 8
    assert len(one.refusals) == 2


async def test_a_rung_is_not_taken_if_the_one_before_it_has_made_the_room(
    bench: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench()
    for age in (30, 20, 10, 0):
        written(one.folder / "logs" / f"{age}", 4096, age)
        written(one.folder / "bundles" / "cache" / f"{age}", 4096, age)
    monkeypatch.setattr(one, "measure", None)
    gone = []

    def measure(folder: Path) -> Space:
        gone.append(4 - len(left(folder / "logs")))
        return Space(50 + 300 * gone[-1], SIZE)

    one.watch = DiskWatch(one.folder, MARKS, one.journal, one.outbox, one.allowance, measure)
    await one.watch.look()
    assert left(one.folder / "logs") == ["0", "10", "20"]
    assert tuple(one.watch.held) == ("logs",), "one log file made the room, and neither a bundle nor an event had to suffer"
    assert len(left(one.folder / "bundles" / "cache")) == 4


async def test_while_intake_is_refused_the_outbox_keeps_to_what_the_disk_holds(bench: Callable[..., Bench]) -> None:
    one = bench(outbox_bytes=1 << 20)
    lane = one.outbox.lane("f", "up")
    await lane.open()
    lane.rules = Store(full="block", priority=7)
    await one.outbox.keep(lane, Parcel("t", bytes(500)))
    await one.look(50)
    assert one.journal.spares == {"disk"}
    assert one.outbox.limit_bytes == one.outbox.bytes + 100 // 8
    blocked = asyncio.ensure_future(one.outbox.keep(lane, Parcel("t", bytes(100))))
    await asyncio.sleep(0.05)
    assert not blocked.done()
    await one.look(10_000)
    await asyncio.wait_for(blocked, 10)
    assert one.outbox.limit_bytes == 1 << 20
    assert one.journal.spares == set()


async def test_events_on_disk_may_still_become_messages_while_intake_is_refused(bench: Callable[..., Bench]) -> None:
    one = bench(outbox_bytes=1 << 20)
    one.allowance.take(5000)
    await one.look(50)
    assert one.outbox.limit_bytes >= 5000


async def test_two_reasons_to_refuse_both_have_to_go() -> None:
    allowance = Allowance(100)
    told: list[str] = []
    allowance.on_refusal.append(lambda: told.append(allowance.reason()))
    allowance.on_room.append(lambda: told.append(allowance.reason()))
    allowance.refuse("disk", "full")
    allowance.refuse("journal", "stuck")
    allowance.refuse("disk", "")
    allowance.refuse("journal", "")
    assert told == ["full", "full", "stuck", ""]


async def test_a_disk_that_cannot_be_asked_is_told_once(bench: Callable[[], Bench], caplog: pytest.LogCaptureFixture) -> None:
    one = bench()

    def measure(_folder: Path) -> Space:
        raise PermissionError(13, "Permission denied")

    one.watch = DiskWatch(one.folder, MARKS, one.journal, one.outbox, one.allowance, measure)
    await one.watch.look()
    await one.watch.look()
    assert one.watch.trouble.startswith(f"the free space of {one.folder} is not known: Permission denied; nothing is done")
    assert caplog.messages == [one.watch.trouble]


async def test_the_watch_looks_more_often_while_a_rung_is_held(
    bench: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.01)
    monkeypatch.setattr(watching, "HURRIED_S", 0.005)
    one = bench()
    task = asyncio.create_task(one.watch.run())
    for free, held in [(10, RUNGS), (10_000, ())]:
        one.free = free
        for _ in range(2000):
            await asyncio.sleep(0.005)
            if tuple(one.watch.held) == held:
                break
        assert tuple(one.watch.held) == held
    task.cancel()


async def filled(one: Bench | RealBench, priority: int, count: int) -> None:
    lane = one.outbox.lane("f", f"up{priority}")
    await lane.open()
    lane.rules = Store(priority=priority)
    for _ in range(count):
        await one.outbox.keep(lane, Parcel("t", os.urandom(10_000)))


class RealBench:
    """A watch over a small disk of its own."""

    def __init__(self, disk: SmallDisk, marks: Disk) -> None:
        self.disk = disk
        self.journal = Journal(disk.folder / "journal.db")
        self.outbox = Outbox(self.journal, 1 << 30, 1000.0)
        self.allowance = Allowance(1 << 30)
        self.watch = DiskWatch(disk.folder, marks, self.journal, self.outbox, self.allowance)

    def messages(self, priority: int) -> int:
        return self.outbox.lanes["f", f"up{priority}"].count


async def test_messages_of_low_priority_go_and_the_file_system_gets_their_room(small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(48 * MIB)
    one = RealBench(disk, Disk())
    await one.journal.open()
    await filled(one, 2, 1200)
    await filled(one, 7, 300)
    disk.fill(leaving=MIB)
    assert disk.free < 2 * MIB
    for _ in range(20):
        await one.watch.look()
        if "outbox" not in one.watch.held:
            break
    assert tuple(one.watch.held) == ("logs", "bundles"), "what is left to do is not the journal's"
    assert disk.free > 3 * MIB
    assert one.messages(7) == 300
    assert 0 < one.messages(2) < 1200, "no more of them than it took"
    one.outbox.close()
    await one.journal.close()


async def test_the_journals_own_spare_room_goes_before_any_message(small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(48 * MIB)
    one = RealBench(disk, Disk())
    await one.journal.open()
    await filled(one, 2, 1200)
    lane = one.outbox.lanes["f", "up2"]
    await lane.evict(11_000_000, "by this test")
    before = one.messages(2)
    assert before
    disk.fill(leaving=2 * MIB)
    for _ in range(20):
        await one.watch.look()
        if "outbox" not in one.watch.held:
            break
    assert "outbox" not in one.watch.held
    assert one.messages(2) == before
    one.outbox.close()
    await one.journal.close()


async def test_the_watch_goes_on_while_the_journal_is_stuck(
    small_disk: Callable[[int], SmallDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "HURRIED_S", 0.05)
    disk = small_disk(16 * MIB)
    one = RealBench(disk, Disk())
    troubles: list[str] = []
    one.journal.on_trouble.append(troubles.append)
    await one.journal.open()
    await filled(one, 2, 30)
    disk.fill()
    stuck = asyncio.create_task(filled(one, 7, 200))
    for _ in range(400):
        await asyncio.wait_for(one.watch.look(), 10)
        if one.journal.trouble and "refuse" in one.watch.held:
            break
        await asyncio.sleep(0.02)
    assert "full" in one.journal.trouble
    assert one.allowance.reason()
    disk.empty()
    await asyncio.wait_for(stuck, 30)
    await asyncio.sleep(0)
    assert one.journal.trouble == ""
    assert troubles[-1] == ""
    await one.watch.look()
    assert one.allowance.reason() == ""
    one.outbox.close()
    await one.journal.close()


async def test_a_journal_on_a_disk_without_a_free_byte_goes_on_in_the_room_that_its_log_has(
    small_disk: Callable[[int], SmallDisk],
) -> None:
    """What has been answered leaves the disk: else a full disk would stay full, and each event run again at the next start."""
    disk = small_disk(16 * MIB)
    before = Journal(disk.folder / "journal.db")
    await before.open()
    queue = await before.queue("event", "f", "t")
    places = [before.take_places("event", queue) for _ in range(1000)]
    await before.committed(Change(tuple(ReceivedRow(place, os.urandom(1000), None, 0.0) for place in places)))
    await before.close()
    journal = Journal(disk.folder / "journal.db")
    troubles: list[str] = []
    journal.on_trouble.append(troubles.append)
    await journal.open()
    for place in places[-20:]:
        await journal.committed(Change(settled=(place,)))
    disk.fill()
    for place in places[:500]:
        await asyncio.wait_for(journal.committed(Change(settled=(place,))), 10)
    assert troubles == []
    await journal.close()


async def test_a_journal_that_has_filled_its_disk_gets_rid_of_what_it_holds_in_the_room_of_its_reserve(
    small_disk: Callable[[int], SmallDisk],
) -> None:
    """Started anew it has no log to write into; without the reserve nothing of it could ever go."""
    disk = small_disk(40 * MIB)
    before = Journal(disk.folder / "journal.db")
    await before.open()
    queue = await before.queue("event", "f", "t")
    places = [before.take_places("event", queue) for _ in range(4000)]
    await before.committed(Change(tuple(ReceivedRow(place, os.urandom(1000), None, 0.0) for place in places)))
    await before.close()
    reserve = disk.folder / "journal.db.reserve"
    assert reserve.stat().st_blocks * 512 == reserve.stat().st_size == SIZE_BYTES
    disk.fill()
    journal = Journal(disk.folder / "journal.db")
    troubles: list[str] = []
    journal.on_trouble.append(troubles.append)
    await journal.open()
    for start in range(0, 4000, 100):
        await asyncio.wait_for(journal.committed(Change(settled=tuple(places[start : start + 100]))), 30)
    assert troubles == [] and not reserve.exists()
    disk.empty()
    await journal.close()
    again = Journal(disk.folder / "journal.db")
    await again.open()
    assert await again.ask(lambda connection: connection.execute("SELECT count(*) FROM events").fetchone()) == (0,)
    await again.close()
    assert reserve.exists(), "there is room for it again"


async def test_the_end_of_a_journal_gives_back_more_than_one_page(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    queue = await journal.queue("event", "f", "t")
    places = [journal.take_places("event", queue) for _ in range(100)]
    await journal.committed(Change(tuple(ReceivedRow(place, os.urandom(3000), None, 0.0) for place in places)))
    await journal.committed(Change(settled=tuple(places)))
    await journal.close()
    assert journal.path.stat().st_size < 200_000
