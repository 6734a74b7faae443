"""A worker that wants too much is stopped at its limit with a reason, and nothing of it stays: no process, no file."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgehost.engine import holds, usage
from edgehost.engine.cell import hidden, ports, watched
from edgehost.engine.excess import in_words, size_in_words
from edgehost.engine.temp import TempFolders
from edgehost.event import Event
from edgehost.manifest.model import Limits, Sandbox

MIB = 1 << 20

RUNAWAY = '''
import os, signal, sys, tempfile, time

def handler(context, event):
    return str(eval(event.body.decode(), globals()))

def hold(size):
    """A child that keeps so much memory."""
    if os.fork() == 0:
        block = bytearray(size)
        time.sleep(1000)

def forks(count):
    try:
        for _ in range(count):
            if os.fork() == 0:
                time.sleep(1000)
    except BlockingIOError:  # RLIMIT_NPROC, which root does not feel, is quicker than the watch
        pass
    time.sleep(1000)

def fill(name, size):
    with open(os.path.join(tempfile.gettempdir(), name), "wb") as file:
        for _ in range(0, size, 65536):
            file.write(bytes(65536))
    return size

def dig(depth):
    for _ in range(depth):
        os.mkdir("x" * 200)
        os.chdir("x" * 200)

def fill_unseen(count, size):
    kept = [tempfile.TemporaryFile() for _ in range(count)]
    for file in kept:
        file.write(bytes(size))
        file.flush()
    time.sleep(1000)
'''


def ask(text: str) -> Event:
    return Event(text.encode())


@pytest.fixture(autouse=True)
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The workers' folders go below this one; it must be empty again in the end."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("limits", "wants", "reason"),
    [
        (
            Limits(memory_bytes=96 * MIB),
            "[hold(40 << 20) for _ in range(4)] and time.sleep(1000)",
            "killed: used more than limits.memory (96 MiB)",
        ),
        (Limits(processes=20), "forks(1000)", "killed: more processes than limits.processes (20)"),
        (
            Limits(temp_bytes=2 * MIB),
            "[fill(str(n), 65536) for n in range(100)] and time.sleep(1000)",
            "killed: used more than limits.temp (2 MiB)",
        ),
        (
            Limits(temp_bytes=2 * MIB),
            "[open(os.path.join(tempfile.gettempdir(), str(n)), 'x').close() for n in range(600)] and time.sleep(1000)",
            "killed: used more than limits.temp (2 MiB)",
        ),
        (Limits(temp_bytes=2 * MIB), "fill_unseen(4, 1 << 20)", "killed: used more than limits.temp (2 MiB)"),
        (
            Limits(temp_bytes=2 * MIB),
            "os.chdir(tempfile.gettempdir()) or dig(1500) or time.sleep(1000)",
            "killed: used more than limits.temp (2 MiB)",
        ),
        (Limits(cpu_s=1), "[None for _ in iter(int, 1)]", "killed by SIGXCPU (limits.cpu_s is spent)"),
    ],
    ids=["memory of children", "processes", "files", "empty files", "deleted files", "deep folders", "cpu_s"],
)
async def test_a_runaway_is_stopped_at_its_limit_and_another_takes_its_place(
    engine: Any, answer: Any, limits: Limits, wants: str, reason: str
) -> None:
    function = await engine.function(RUNAWAY, limits=limits)
    other = await engine.function("handler = lambda context, event: 'well'", "other")
    pid = function.pool.workers[0].pid
    failed = await answer(function.submit(ask(wants)))
    assert failed.code == "worker_died"
    assert failed.body.decode().startswith(f"the worker of 'f' died while it handled the event: {reason}")
    assert reason in function.pool.last_error
    assert (await answer(other.submit(Event()))).body == b"well"
    await engine.until(lambda: function.pool.ready == 1, "another worker")
    assert function.pool.workers[0].pid != pid
    assert (await answer(function.submit(ask("2 + 2")))).body == b"4"


async def test_one_file_ends_at_the_limit_with_an_error_in_the_handler(engine: Any, answer: Any) -> None:
    function = await engine.function(RUNAWAY, limits=Limits(temp_bytes=MIB), sandbox=Sandbox())
    failed = await answer(function.submit(ask("fill('one', 8 << 20)")))
    assert (failed.code, failed.body) == ("raised", b"[Errno 27] File too large")
    assert (await answer(function.submit(ask("os.path.getsize(tempfile.gettempdir() + '/one')")))).body == b"1048576"


async def test_a_worker_below_its_limits_is_left_alone(engine: Any, answer: Any) -> None:
    limits = Limits(memory_bytes=128 * MIB, processes=10, temp_bytes=8 * MIB)
    function = await engine.function(RUNAWAY, limits=limits)
    pid = function.pool.workers[0].pid
    assert (await answer(function.submit(ask("fill('a', 4 << 20)")))).code == ""
    assert (await answer(function.submit(ask("[hold(1 << 20) for _ in range(5)] and time.sleep(0.8)")))).code == ""
    assert function.pool.workers[0].pid == pid


async def test_each_worker_has_a_temporary_folder_of_its_own(engine: Any, answer: Any, own_temp: Path) -> None:
    function = await engine.function(RUNAWAY, workers=2)
    told = {
        (await answer(function.submit(ask("time.sleep(0.05) or (tempfile.gettempdir(), os.environ['TMPDIR'])")))).body.decode()
        for _ in range(6)
    }
    folders = {Path(eval(text)[0]) for text in told}
    assert all(folder.parent.parent == own_temp for folder in folders)
    assert all(eval(text)[0] == eval(text)[1] for text in told)
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
    await answer(function.submit(ask("os._exit(1)")))
    await engine.until(lambda: sum(folder.exists() for folder in own_temp.glob("*/*")) == 2, "the dead one's folder to go")


async def test_a_folder_full_of_files_is_removed_without_a_stop(engine: Any, own_temp: Path) -> None:
    temp = TempFolders()
    folder = temp.make("f")
    for number in range(3):
        (folder / str(number)).mkdir()
        for name in range(300):
            (folder / str(number) / str(name)).touch()
    (folder / "closed").mkdir(mode=0o500)
    (folder / "link").symlink_to(own_temp)
    temp.remove(folder)
    assert folder.exists()
    await engine.until(lambda: not folder.exists(), "the folder to go")
    assert own_temp.exists()
    temp.close()


async def test_a_tree_deeper_than_calls_may_be_is_removed(engine: Any, own_temp: Path, dig: Any) -> None:
    temp, stale = TempFolders(), own_temp / "edgehost-tmp-dead"
    stale.mkdir()
    dig(stale, 1500)
    first, second = temp.make("f"), temp.make("f")
    assert not stale.exists()
    dig(first, 1500)
    temp.remove(first)
    await engine.until(lambda: not first.exists(), "the folder to go")
    dig(second, 1500)
    temp.close()


async def test_what_a_killed_agent_left_is_removed_and_a_living_ones_folder_stays(own_temp: Path) -> None:
    for name in ("edgehost-tmp-dead", "edgehost-tmp-alive", "another"):
        (own_temp / name).mkdir()
    (own_temp / "edgehost-tmp-dead" / "file").touch()
    alive = os.open(own_temp / "edgehost-tmp-alive", os.O_RDONLY)
    fcntl.flock(alive, fcntl.LOCK_EX)
    temp = TempFolders()
    made = temp.make("f")
    assert {folder.name for folder in own_temp.iterdir()} == {"edgehost-tmp-alive", "another", made.parent.name}
    temp.close()
    os.close(alive)
    for name in ("edgehost-tmp-alive", "another"):
        (own_temp / name).rmdir()


def test_usage_sees_a_process_with_all_it_started() -> None:
    code = "import subprocess, sys; subprocess.run(['sh', '-c', 'sleep 1000 & sleep 1000 & echo; wait'])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = usage.family(process.pid)
        assert len(pids) == 4 and pids[0] == process.pid
        assert len(usage.family(process.pid, 2)) > 2
        whole = usage.memory_bytes(pids, 0)
        assert 3 * MIB < whole < usage.memory_bytes(pids, 1 << 40)
        os.killpg(process.pid, 9)
    assert usage.family(process.pid) == [process.pid]
    assert usage.memory_bytes([process.pid], 0) == 0
    assert usage.tasks_of_user(os.getuid()) > 1


@pytest.mark.parametrize(
    ("size", "words"), [(64 * MIB, "64 MiB"), (3 << 29, "1.5 GiB"), (100_000, "100,000 bytes"), (1536, "1.5 KiB"), (1, "1 bytes")]
)
def test_sizes_in_words(size: int, words: str) -> None:
    assert size_in_words(size) == words


def test_every_limit_has_its_words() -> None:
    limits = Limits(memory_bytes=MIB, processes=3, temp_bytes=2 * MIB)
    assert in_words("memory", limits) == "used more than limits.memory (1 MiB)"
    assert in_words("temp", limits) == "used more than limits.temp (2 MiB)"
    assert in_words("processes", limits) == "more processes than limits.processes (3)"


def test_what_a_cgroup_holds_is_not_watched() -> None:
    limits = Limits(memory_bytes=MIB, processes=3, temp_bytes=2 * MIB, open_files=9, cpu=0.5)
    assert watched(limits, {"memory", "pids"}) == Limits(temp_bytes=2 * MIB)
    assert watched(limits, set()) == Limits(memory_bytes=MIB, processes=3, temp_bytes=2 * MIB)
    assert watched(Limits(open_files=9, cpu_s=3), set()) == Limits()


@pytest.mark.parametrize(
    ("secrets", "confined", "look_after", "hides"),
    [
        (("db",), True, Limits(), False),
        (("db",), True, Limits(memory_bytes=MIB), False),
        (("db",), False, Limits(), True),
        (("db",), False, Limits(memory_bytes=MIB), False),
        ((), False, Limits(), False),
    ],
)
def test_who_hides_from_its_own_user(secrets: tuple[str, ...], confined: bool, look_after: Limits, hides: bool) -> None:
    assert hidden(secrets, confined, look_after) is hides


def test_what_holds_is_said() -> None:
    limits = Limits(memory_bytes=64 * MIB, cpu=0.5, processes=8, temp_bytes=MIB, open_files=64, cpu_s=60, niceness=5)
    assert holds.limits(limits, {"memory", "cpu", "pids"}) == [
        "memory 64 MiB (cgroup)",
        "cpu 0.5 (cgroup)",
        "processes 8 (cgroup)",
        "temp 1 MiB (watched)",
        "open_files 64 (rlimit)",
        "cpu_s 60 (rlimit)",
        "niceness 5",
    ]
    assert holds.limits(limits, set())[:3] == [
        "memory 64 MiB (watched)",
        "cpu 0.5 (not enforced: no cgroup of its own)",
        "processes 8 (watched)",
    ]
    assert holds.limits(Limits(), set()) == []


@pytest.mark.parametrize(
    ("sandbox", "abi", "words"),
    [
        (Sandbox(), 7, "Landlock 7: files, devices, signals; network all"),
        (Sandbox(network="none"), 4, "Landlock 4: files; network no TCP"),
        (Sandbox(network=(80, 443)), 5, "Landlock 5: files, devices; network TCP 80, 443"),
        (Sandbox(network="none"), 3, "Landlock 3: files; network no TCP (not enforced: needs Landlock 4)"),
        (Sandbox(), 0, "not enforced: this kernel has no Landlock"),
        (Sandbox(enabled=False), 7, "off by the manifest"),
    ],
)
def test_what_the_sandbox_holds_is_said(sandbox: Sandbox, abi: int, words: str) -> None:
    assert holds.sandbox(sandbox, abi) == words


def test_ports() -> None:
    assert [ports(Sandbox(network=network)) for network in ("all", "none", (1, 2))] == [None, (), (1, 2)]
