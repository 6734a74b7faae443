"""The agent's share of the cgroup tree, on a folder that looks like one; the real kernel's is asked in tests/lab/vm."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from edgehost.engine import cgroup, landlock, sandbox
from edgehost.engine.cell import Cells
from edgehost.engine.cgroup import Group, Tree, claim, own_folder, settings, usable, wanted_controllers
from edgehost.engine.spec import worker_spec
from edgehost.errors import StartError
from edgehost.manifest.model import Limits, Manifest

MIB = 1 << 20
EVERY = frozenset({"memory", "pids", "cpu"})
SERVICE = "sys/fs/cgroup/system.slice/edgehost.service"


@pytest.mark.parametrize(
    ("limits", "controllers", "files"),
    [
        (
            Limits(memory_bytes=64 * MIB),
            EVERY,
            {"memory.max": str(64 * MIB), "memory.swap.max": "0", "memory.oom.group": "1"},
        ),
        (Limits(processes=8, cpu=0.5), EVERY, {"pids.max": "8", "cpu.max": "50000 100000"}),
        (Limits(cpu=2.25), EVERY, {"cpu.max": "225000 100000"}),
        (Limits(cpu=0.001), EVERY, {"cpu.max": "1000 100000"}),  # the kernel's least
        (Limits(memory_bytes=1, processes=8, cpu=1.0), {"pids"}, {"pids.max": "8"}),
        (Limits(open_files=9, temp_bytes=1, cpu_s=1), EVERY, {}),
    ],
)
def test_limits_become_files_of_a_group(limits: Limits, controllers: frozenset[str], files: dict[str, str]) -> None:
    assert settings(limits, controllers) == files


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root with a delegated group in which this process is alone."""
    group = tmp_path / SERVICE
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:name=systemd:/x\n0::/system.slice/edgehost.service\n")
    (tmp_path / "proc/self/mountinfo").write_text(
        "21 26 0:20 / /sys rw - sysfs sysfs rw\n29 21 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    )
    (group / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (group / "cgroup.subtree_control").write_text("")
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n")
    return tmp_path


def test_the_own_group_is_found(machine: Path) -> None:
    assert own_folder(machine) == machine / SERVICE
    (machine / "proc/self/cgroup").write_text("0::/\n")
    assert own_folder(machine) == machine / "sys/fs/cgroup"
    (machine / "proc/self/cgroup").write_text("4:memory:/\n")
    assert own_folder(machine) is None
    assert own_folder(machine / "nowhere") is None


def test_the_group_of_a_container_counts_from_its_mount(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/lxc/box/a\n")
    (machine / "proc/self/mountinfo").write_text("29 21 0:25 /lxc/box /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert own_folder(machine) == machine / "sys/fs/cgroup/a"


def test_only_a_group_of_our_own_is_divided(machine: Path) -> None:
    group = machine / SERVICE
    assert usable(group, os.getpid()) == ""
    assert wanted_controllers(group) == EVERY
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    assert usable(group, os.getpid()) == "other processes are in its cgroup"
    (group / "cgroup.controllers").write_text("cpuset io\n")
    assert usable(group, os.getpid()) == "its cgroup has none of the controllers memory, pids and cpu"
    (group / "cgroup.subtree_control").unlink()
    assert usable(group, os.getpid()) == "no cgroup of its own"
    assert usable(None, 1) == "no cgroup v2"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_group_of_somebody_else_is_left_alone(machine: Path) -> None:
    (machine / SERVICE / "cgroup.procs").chmod(0o444)
    assert usable(machine / SERVICE, os.getpid()) == "its cgroup is not delegated to it"


def test_claiming_moves_the_agent_and_enables_controllers(machine: Path) -> None:
    group = machine / SERVICE
    (group / "agent").mkdir()
    (group / "agent/cgroup.procs").touch()
    tree = claim(group)
    assert tree is not None and tree.controllers == EVERY
    assert (group / "agent/cgroup.procs").read_text() == str(os.getpid())
    assert (group / "cgroup.subtree_control").read_text().startswith("+")
    assert tree.holds(Limits(cpu=0.5)) and not tree.holds(Limits(open_files=3))
    assert claim(None) is None


def test_what_a_killed_agent_left_is_removed(machine: Path) -> None:
    group = machine / SERVICE
    for name in ("worker.3.camera", "worker.9.door", "another"):
        (group / name).mkdir()
    (group / "agent").mkdir()
    (group / "agent/cgroup.procs").touch()
    claim(group)
    assert {entry.name for entry in group.iterdir() if entry.is_dir()} == {"agent", "another"}


def test_a_group_that_cannot_be_used_is_no_tree(machine: Path, caplog: pytest.LogCaptureFixture) -> None:
    (machine / SERVICE / "agent").touch()
    assert claim(machine / SERVICE) is None
    assert "limits are watched instead" in caplog.text


def test_a_group_that_takes_no_limit_is_not_left_behind(tmp_path: Path) -> None:
    tree = Tree(tmp_path, EVERY)  # a plain folder: a new group in it has no files to write to
    with pytest.raises(FileNotFoundError):
        tree.group("camera", Limits(memory_bytes=MIB))
    assert list(tmp_path.iterdir()) == []


def takes_limits(monkeypatch: pytest.MonkeyPatch, *without: str) -> dict[str, str]:
    """From now on a new group has every file but those `without`; gives what was written, by file."""
    written: dict[str, str] = {}
    mkdir = Path.mkdir

    def made(folder: Path, *args: int, **options: bool) -> None:
        mkdir(folder, *args, **options)
        if folder.name.startswith("worker."):
            for name in settings(Limits(memory_bytes=1, processes=1, cpu=1.0), EVERY).keys() - set(without):
                (folder / name).touch()

    def write(file: Path, value: str) -> None:
        os.close(os.open(file, os.O_WRONLY))
        written[file.name] = value
        file.unlink()  # a real group's files go with it

    monkeypatch.setattr(Path, "mkdir", made)
    monkeypatch.setattr(cgroup, "_set", write)
    return written


@pytest.mark.parametrize("missing", ["memory.swap.max", "memory.oom.group"])
def test_a_kernel_without_swap_holds_the_limit_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    written = takes_limits(monkeypatch, missing)
    Tree(tmp_path, frozenset({"memory"})).group("camera", Limits(memory_bytes=MIB))
    assert written.keys() == {"memory.max", "memory.swap.max", "memory.oom.group"} - {missing}


@pytest.mark.parametrize(
    ("trouble", "raised", "told"),
    [
        (
            PermissionError(13, "no", "/etc/x"),
            StartError,
            "camera: no temporary folder, cgroup or rules for its worker: .*/etc/x",
        ),
        (RuntimeError("a mistake"), RuntimeError, "a mistake"),
    ],
)
async def test_a_cell_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception, raised: type[Exception], told: str
) -> None:
    def refuse(*_: object) -> None:
        raise trouble

    for name in ("groups", "temp"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    monkeypatch.setattr(sandbox, "own_rules", refuse)
    monkeypatch.setattr(landlock, "version", lambda: 7)
    takes_limits(monkeypatch, "memory.max", "memory.swap.max", "memory.oom.group", "cpu.max")
    cells = Cells(Tree(tmp_path / "groups", frozenset({"pids"})))
    spec = worker_spec(Manifest("camera", tmp_path, tmp_path / "function.toml", handler="a:b", limits=Limits(processes=3)))
    with pytest.raises(raised, match=told):
        cells.cell(spec)
    assert list((tmp_path / "groups").iterdir()) == []
    assert list((tmp_path / "temp").glob("*/*")) == []
    cells.close()


def test_a_group_tells_why_its_worker_died(tmp_path: Path) -> None:
    group = Group(tmp_path)
    assert not group.killed_for_memory()
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n")
    assert not group.killed_for_memory()
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n")
    assert group.killed_for_memory()
    assert group.procs == str(tmp_path / "cgroup.procs")


def test_a_group_that_is_gone_is_removed(tmp_path: Path) -> None:
    group = Group(tmp_path / "worker.1.f")
    assert group.remove()
