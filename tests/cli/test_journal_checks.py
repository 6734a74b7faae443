"""What `edgehost check` finds of the journal: on machines played to it, under a real lock, on a real tmpfs."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edgehost import mounts
from edgehost.cli import journal_checks, journal_disk
from edgehost.cli.check import _journal
from edgehost.config import Config, Disk, Journal
from edgehost.delivery.ladder import Space
from tests.delivery.small_disk import SmallDisk, small_disk

__all__ = ["small_disk"]

MIB, GIB = 1 << 20, 1 << 30
STATE = Path("/var/lib/edgehost")
PROC = "22 1 0:21 / /proc rw - proc proc rw\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners: needs root")


@pytest.fixture
def machine(tmp_path):
    """`machine("/ ext4 /dev/mmcblk0p2 rw")`: the root of a machine with these mounts, each POINT KIND SOURCE OPTIONS."""

    def make(*lines: str, cmdline: str = "", card: str = "", locks: str = "", **vm: str) -> Path:
        root = tmp_path / "machine"
        files = {"proc/self/mountinfo": PROC, "proc/cmdline": cmdline, "proc/locks": locks}
        for number, line in enumerate(lines):
            point, kind, source, options = line.split(" ")
            ours = "ro" if options.startswith("ro") else "rw"
            device = f"179:{number}" if source.startswith("/dev/") else f"0:{40 + number}"
            files["proc/self/mountinfo"] += f"3{number} 1 {device} / {point} {ours} shared:1 - {kind} {source} {options}\n"
        files |= {f"proc/sys/vm/{name}": f"{value}\n" for name, value in vm.items()}
        if card:
            files["sys/block/mmcblk0/device/type"] = f"{card}\n"
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root

    return make


def found_on(root: Path, place: Path = STATE) -> tuple[str, str]:
    finding = journal_disk.disk(place, root)
    assert finding.name == "journal disk" and bool(finding.advice) == (finding.state != "ok")
    return finding.state, finding.found


PI_4 = "/ ext4 /dev/mmcblk0p2 rw"
RAM = "/media/root-rw tmpfs tmpfs-root rw"
HIDDEN = "/ overlay overlay rw,lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work"
UPPER = "rw,lowerdir=/media/root-ro,upperdir=/media/root-rw/overlay,workdir=/media/root-rw/work"


@pytest.mark.parametrize(
    ("lines", "state", "found"),
    [
        (["/ ext4 /dev/sda2 rw"], "ok", "ext4 on /dev/sda2"),
        ([PI_4, "/var btrfs /dev/nvme0n1p3 rw,subvol=/var"], "ok", "btrfs on /dev/nvme0n1p3"),
        ([PI_4, "/var/li tmpfs tmpfs rw"], "ok", "ext4 on /dev/mmcblk0p2, a card: `edgehost journal` shows how much"),
        ([PI_4, "/var/lib tmpfs tmpfs rw,size=1024k"], "warn", "tmpfs at /var/lib, in memory: a restart loses all of it"),
        ([PI_4, "/var/lib/edgehost ramfs none rw"], "warn", "ramfs at /var/lib/edgehost, in memory"),
        (["/ rootfs rootfs rw"], "warn", "rootfs at /, in memory"),
        ([PI_4, "/var ext4 /dev/zram1 rw"], "warn", "ext4 on /dev/zram1 at /var, in memory"),
        ([PI_4, "/var/lib nfs4 nas:/edge rw,vers=4.2"], "warn", "nfs4 on nas:/edge: SQLite cannot rely on locks and syncs there"),
        ([PI_4, "/var cifs //nas/edge rw"], "warn", "cifs on //nas/edge: SQLite"),
        (["/ 9p hostshare rw,trans=virtio"], "warn", "9p on hostshare: SQLite"),
        ([PI_4, "/var fuse.sshfs a@b:/c rw"], "warn", "fuse.sshfs on a@b:/c: SQLite"),
        ([PI_4, "/var fuseblk /dev/sda1 rw"], "warn", "fuseblk on /dev/sda1: SQLite"),
        ([PI_4, "/var vfat /dev/sda1 rw"], "warn", "vfat on /dev/sda1: it knows no rights of users"),
        ([PI_4, "/var exfat /dev/sda1 rw"], "warn", "exfat on /dev/sda1: it knows no rights of users"),
        (["/ ext4 /dev/sda2 ro"], "fail", "ext4 at / is mounted read-only"),
        ([PI_4, "/var vfat /dev/sda1 ro"], "fail", "vfat at /var is mounted read-only"),
        (["/ ext4 /dev/sda2 rw,nobarrier"], "warn", "ext4 on /dev/sda2, mounted with nobarrier: a power cut may"),
        (["/ ext4 /dev/sda2 rw,barrier=0,data=writeback"], "warn", "ext4 on /dev/sda2, mounted with barrier=0"),
        (["/ f2fs /dev/sda2 rw,fsync_mode=nobarrier"], "warn", "f2fs on /dev/sda2, mounted with fsync_mode=nobarrier"),
        (["/ ext4 /dev/sda2 rw,data=writeback"], "ok", "ext4 on /dev/sda2"),
        (["/ ext4 /dev/sda2 rw,errors=remount-ro"], "ok", "ext4 on /dev/sda2"),
        (["/var ext4 /dev/sda2 rw", "/var tmpfs tmpfs rw"], "warn", "tmpfs at /var, in memory"),
        (["/var tmpfs tmpfs rw", "/var ext4 /dev/sda2 rw"], "ok", "ext4 on /dev/sda2"),
        ([], "warn", "unknown: /proc/self/mountinfo says nothing of /var/lib/edgehost"),
    ],
)
def test_the_kind_of_disk(machine, lines, state, found):
    said = found_on(machine(*lines))
    assert said[0] == state and said[1].startswith(found)


@pytest.mark.parametrize(
    ("lines", "cmdline", "state", "found"),
    [
        ([RAM, f"/ overlay overlayroot {UPPER}"], "", "warn", "in memory (tmpfs at /media/root-rw): a restart loses all of it"),
        ([HIDDEN], "boot=overlay quiet", "warn", "overlay at /, which keeps changes in memory: a restart loses all of it"),
        ([HIDDEN], "quiet overlayroot=tmpfs:recurse=0\n", "warn", "in memory: a restart loses all of it"),
        ([HIDDEN], "quiet overlayroot=crypt:dev=/dev/sda1", "warn", "in a container"),
        ([f"/ overlay overlay {UPPER}"], "quiet", "warn", "whose upper folder cannot be seen from here: in a container"),
        ([f"/ overlay overlay {UPPER}", "/data ext4 /dev/sda1 rw"], "boot=overlayed", "warn", "in a container"),
        (["/media/root-rw ext4 /dev/sda1 rw", f"/ overlay overlayroot {UPPER}"], "", "ok", "ext4 on /dev/sda1"),
        (["/media/root-rw vfat /dev/sda1 rw", f"/ overlay overlayroot {UPPER}"], "", "warn", "vfat on /dev/sda1"),
        (["/media/root-rw ext4 /dev/sda1 rw", f"/ overlay over {UPPER},volatile"], "", "warn", "mounted with volatile"),
        (["/ overlay overlay ro,lowerdir=/a:/b"], "boot=overlay", "fail", "overlay at / is mounted read-only"),
        ([f"/ overlay overlay {UPPER}", "/var/lib ext4 /dev/mmcblk0p3 rw"], "boot=overlay", "ok", "ext4 on /dev/mmcblk0p3"),
    ],
)
def test_an_overlay_keeps_what_its_upper_folder_keeps(machine, lines, cmdline, state, found):
    said = found_on(machine(*lines, cmdline=cmdline))
    assert said[0] == state and found in said[1]


def test_an_overlaid_raspberry_pi_is_told_how_to_end_that(machine):
    finding = journal_disk.disk(STATE, machine(f"/ overlay overlay {UPPER}", cmdline="boot=overlay"))
    assert "raspi-config" in finding.advice and "[agent].state" in finding.advice


@pytest.mark.parametrize(("card", "said"), [("SD", "an SD card"), ("MMC", "eMMC"), ("", "a card")])
def test_a_card_is_called_one_also_as_dev_root(machine, card, said):
    root = machine("/ ext4 /dev/root rw", card=card)
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block/179:0").symlink_to("../../devices/platform/mmc/mmcblk0/mmcblk0p2")
    assert found_on(root) == ("ok", f"ext4 on /dev/mmcblk0p2, {said}: `edgehost journal` shows how much is written to it")


def test_blanks_in_a_mount_point_are_read(machine):
    root = machine(PI_4, r"/media/my\040disk ext4 /dev/sda1 rw")
    assert found_on(root, Path("/media/my disk/state")) == ("ok", "ext4 on /dev/sda1")


def test_a_machine_without_proc_is_no_end_of_the_check(tmp_path):
    assert mounts.read(tmp_path) == []


def test_a_journal_that_is_not_there_yet_is_no_fault(machine, tmp_path):
    place = journal_checks.place_of(tmp_path / "new/state")
    assert place.there == tmp_path
    finding = journal_checks.journal(place, Journal(), machine(), journal_checks.may_use)
    assert (finding.state, finding.advice) == ("ok", "")
    assert finding.found.startswith(f"{tmp_path}/new/state/journal.db is not there yet")
    assert not (tmp_path / "new").exists()


def lock_of(path: Path, kind: str = "WRITE", first: int = 0x40000002) -> str:
    return f"1: POSIX  ADVISORY  {kind} 4711 b3:02:{path.stat().st_ino} {first} {first + 509}\n"


def test_the_journal_is_told_with_its_size_and_who_has_it_open(machine, tmp_path):
    path = tmp_path / "journal.db"
    path.write_bytes(bytes(3 * MIB))
    path.with_name("journal.db-wal").write_bytes(bytes(MIB))
    place = journal_checks.place_of(tmp_path)
    found = {
        text: journal_checks.journal(place, Journal(), machine(locks=text), journal_checks.may_use).found
        for text in ("", lock_of(path), lock_of(path, kind="READ"), lock_of(path, first=0), "2: -> POSIX  ADVISORY\n")
    }
    assert found.pop(lock_of(path)) == f"{path}, 4 MiB, in use by process 4711"
    assert set(found.values()) == {f"{path}, 4 MiB"}


HOLD = """
import sqlite3, sys
journal = sqlite3.connect(sys.argv[1], isolation_level=None)
for step in ("PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL", "CREATE TABLE t (n)", "INSERT INTO t VALUES (7)"):
    journal.execute(step)
print("held", flush=True)
sys.stdin.read()
journal.execute("INSERT INTO t VALUES (8)")
"""


def test_a_journal_in_use_is_left_as_it_is(tmp_path):
    """The real lock of a process that holds it as an agent does, and that goes on writing afterwards."""
    path = tmp_path / "journal.db"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None and agent.stdout.readline() == b"held\n"
        before = {each.name: each.stat() for each in tmp_path.iterdir()}
        findings = list(_journal(Config(state=tmp_path)))
        assert {each.name: each.stat() for each in tmp_path.iterdir()} == before
        assert findings[0].found.endswith(f", in use by process {agent.pid}")
        agent.communicate(b"")
    assert agent.returncode == 0
    with closing(sqlite3.connect(path)) as left:
        assert left.execute("SELECT n FROM t").fetchall() == [(7,), (8,)]


@pytest.mark.parametrize(
    ("lines", "vm", "most"),
    [
        ([PI_4], {}, "the last 40 s or 3.91 MiB, whichever is less"),
        (["/ ext4 /dev/sda2 rw,commit=600"], {}, "the last 635 s or 3.91 MiB, whichever is less"),
        (["/ f2fs /dev/sda2 rw"], {"dirty_expire_centisecs": "1000"}, "the last 75 s or 3.91 MiB, whichever is less"),
        ([PI_4], {"dirty_writeback_centisecs": "0"}, "the last 3.91 MiB"),
        ([], {}, "the last 40 s or 3.91 MiB, whichever is less"),
    ],
)
def test_relaxed_durability_says_what_a_power_cut_may_take(machine, tmp_path, lines, vm, most):
    place = journal_checks.place_of(tmp_path)
    finding = journal_checks.journal(place, Journal(durability="relaxed"), machine(*lines, **vm), journal_checks.may_use)
    assert finding.state == "ok"
    assert finding.found.endswith(f"; durability is relaxed: a power cut may take {most}; a crash of the agent takes nothing")


def test_a_folder_that_this_user_may_not_use_fails(machine, tmp_path):
    def refused(folder: Path) -> journal_checks.Finding:
        return journal_checks.journal(journal_checks.place_of(folder), Journal(), machine(), lambda path: False)

    finding = refused(tmp_path)
    assert finding.state == "fail" and f"{tmp_path} belongs to user" in finding.found and "[agent].state" in finding.advice
    finding = refused(tmp_path / "state")
    assert finding.state == "fail" and finding.found.startswith(f"{tmp_path}/state cannot be made: user ")
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file").found == f"{tmp_path}/file is no folder"


def test_a_journal_that_this_user_may_not_write_fails(machine, tmp_path):
    path = tmp_path / "journal.db"
    path.touch()
    place = journal_checks.place_of(tmp_path)
    finding = journal_checks.journal(place, Journal(), machine(), lambda asked: asked != path)
    assert finding.state == "fail" and finding.found.startswith(f"{path} belongs to user") and "sudo chown" in finding.advice


def test_links_are_followed_and_dead_ones_fail(machine, tmp_path):
    disk, state = tmp_path / "disk", tmp_path / "state"
    state.mkdir()
    (state / "journal.db").symlink_to(disk / "journal.db")
    (tmp_path / "linked").symlink_to(disk)

    def found(folder: Path) -> tuple[str, str]:
        finding = journal_checks.journal(journal_checks.place_of(folder), Journal(), machine(), journal_checks.may_use)
        return finding.state, finding.found

    assert found(state) == ("fail", f"{state}/journal.db is a link to {disk}/journal.db, where nothing is")
    assert found(tmp_path / "linked") == ("fail", f"{tmp_path}/linked is a link to {disk}, where nothing is")
    disk.mkdir()
    assert journal_checks.place_of(state).there == journal_checks.place_of(tmp_path / "linked").there == disk
    assert found(state)[0] == found(tmp_path / "linked")[0] == "ok"


def room(free: int, size: int, journal: Journal | None = None, disk: Disk | None = None) -> journal_checks.Finding:
    return journal_checks.room(STATE, journal or Journal(), disk or Disk(), lambda folder: Space(free, size))


@pytest.mark.parametrize(
    ("free", "size", "state", "found", "advice"),
    [
        (5 * GIB, 28 * GIB, "ok", "5 GiB of 28 GiB are free; 64 MiB of events and 64 MiB of messages may wait", ""),
        (255 * MIB, 28 * GIB, "warn", "than [disk] logs allows (256 MiB): the agent deletes old log files", "with 320 MiB free"),
        (191 * MIB, 28 * GIB, "warn", "[disk] bundles allows (192 MiB): the agent deletes old log files, cached", "with 320 MiB"),
        (127 * MIB, 28 * GIB, "warn", "outbox allows (128 MiB): the agent deletes old log files, cached bundles, wai", ""),
        (63 * MIB, 28 * GIB, "fail", "less than [disk] refuse allows (64 MiB): durable events are refused", "with 80 MiB free"),
        (60 * MIB, 100 * MIB, "warn", "takes 87.5 MiB; durable events are refused before that", "make 31.5 MiB of room"),
        (98 * MIB, 100 * MIB, "ok", "25 MiB of events and 33.3 MiB of messages may wait (a quarter and a third of the disk", ""),
        (9 * MIB, 100 * MIB, "warn", "[disk] logs allows (10 MiB)", "make room"),
        (3 * MIB, 100 * MIB, "fail", "[disk] refuse allows (4 MiB)", "make room on the file system of /var/lib/edgehost"),
    ],
)
def test_room(free, size, state, found, advice):
    finding = room(free, size)
    assert finding.state == state and found in finding.found
    assert advice in finding.advice and bool(finding.advice) == (state != "ok")


def test_room_is_judged_by_what_edgehost_toml_allows():
    assert room(5 * GIB, 28 * GIB, Journal(events_bytes=6 * GIB)).state == "warn"
    assert room(GIB, 28 * GIB, disk=Disk(refuse_bytes=2 * GIB)).state == "fail"
    assert room(500 * MIB, 28 * GIB, disk=Disk(logs_bytes=GIB)).state == "warn"


def test_what_the_journal_has_already_taken_is_room_for_it(tmp_path):
    (tmp_path / "journal.db").touch()
    os.truncate(tmp_path / "journal.db", 32 * MIB)
    finding = journal_checks.room(tmp_path, Journal(), Disk(), lambda folder: Space(60 * MIB, 100 * MIB))
    assert finding.state == "ok"


def test_room_that_cannot_be_asked_for_is_unknown():
    def refuse(folder: Path) -> Space:
        raise PermissionError(13, "Permission denied")

    finding = journal_checks.room(STATE, Journal(), Disk(), refuse)
    assert finding.state == "warn" and finding.found.startswith("unknown: ") and "Permission denied" in finding.found


def test_the_services_configuration_means_the_services_folder(monkeypatch):
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/nowhere/at/all")
    seen: list[Path] = []
    monkeypatch.setattr(journal_checks, "place_of", lambda folder: seen.append(folder) or journal_checks.Place(folder, Path("/")))
    for settings in (Config(), Config(source=Path("/etc/edgehost/edgehost.toml")), Config(state=Path("/data"))):
        list(_journal(settings))
    assert seen == [Path("/nowhere/at/all/edgehost"), STATE, Path("/data")]


def test_a_real_tmpfs_is_known_for_what_it_is(small_disk: Callable[[int], SmallDisk]):
    ram = small_disk(100 * MIB)
    journal, disk, room = _journal(Config(state=ram.folder / "state"))
    assert (journal.state, disk.state, room.state) == ("ok", "warn", "ok")
    assert disk.found == f"tmpfs at {ram.folder}, in memory: a restart loses all of it"
    assert "100 MiB are free; 25 MiB of events" in room.found
    ram.fill(leaving=3 * MIB)
    *_, room = _journal(Config(state=ram.folder / "state"))
    assert room.state == "fail" and "durable events are refused" in room.found


def test_a_real_disk_that_is_read_only_fails(small_disk: Callable[[int], SmallDisk]):
    folder = small_disk(MIB).folder
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    journal, disk, _ = _journal(Config(state=folder))
    assert (journal.state, journal.advice) == ("fail", "see journal disk")
    assert (disk.state, disk.found) == ("fail", f"tmpfs at {folder} is mounted read-only")


@as_root
def test_a_journal_that_root_has_left_in_a_services_folder_is_told(tmp_path):
    (tmp_path / "journal.db").touch()
    os.chown(tmp_path, 1, -1)
    finding, *_ = _journal(Config(state=tmp_path))
    assert finding.state == "warn" and "belongs to user root and its folder to user daemon" in finding.found
    assert f"sudo chown daemon: {tmp_path}/journal.db*" in finding.advice


@as_root
def test_the_folder_of_another_user_is_that_users_to_ask_about(machine, tmp_path):
    os.chown(tmp_path, 1, -1)
    finding = journal_checks.journal(journal_checks.place_of(tmp_path), Journal(), machine(), lambda path: False)
    assert finding.state == "warn" and "if the agent runs as user daemon" in finding.advice
