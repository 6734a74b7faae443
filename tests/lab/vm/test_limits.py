"""Limits and sandbox where a real systemd delegates a real cgroup v2 to the agent, on a kernel with an old Landlock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tools.laboratory.machine import Machine

GROUP = "/sys/fs/cgroup/system.slice/edgehost.service"
RUNAWAY = '''
import os, time

def handler(context, event):
    return str(eval(event.body.decode(), globals()))

def hold(size):
    """A child that keeps so much memory: too little to be stopped by its own rlimit."""
    if os.fork() == 0:
        block = bytearray(size)
        time.sleep(1000)

def forks(count):
    made = 0
    try:
        for _ in range(count):
            if os.fork() == 0:
                time.sleep(1000)
            made += 1
    except OSError as error:
        return f"{made} and {error.strerror}"

def spin(seconds):
    began = time.process_time(), time.monotonic()
    while time.monotonic() - began[1] < seconds:
        pass
    return (time.process_time() - began[0]) / (time.monotonic() - began[1])
'''
MANIFEST = """\
handler = "main:handler"
[limits]
memory = "64MiB"
processes = 10
cpu = 0.25
"""
GOOD = {"main.py": "handler = lambda context, event: 'well'", "function.toml": 'handler = "main:handler"'}


@pytest.fixture(scope="module")
def runaway(machine: Machine, agent_in: Callable[[Machine], Any]) -> Iterator[Any]:
    """One agent for all: each test leaves it as it found it, and under emulation it takes ten seconds to start."""
    agent = agent_in(machine)
    agent.start({"bad": {"main.py": RUNAWAY, "function.toml": MANIFEST}, "good": GOOD})
    yield agent
    agent.stop()


def asked(machine: Machine, expression: str) -> Any:
    return json.loads(machine.run(f"edgehost invoke --json bad --body {json.dumps(expression)}", check=False))


def groups(machine: Machine) -> list[str]:
    return machine.run(f"ls {GROUP} | grep ^worker || true").split()


def temporary(machine: Machine) -> list[str]:
    """The workers' temporary folders, in the service's private /tmp."""
    return machine.run("find /tmp -type d -name 'edgehost-tmp-*'").split()


def test_the_delegated_group_holds_the_limits(machine: Machine, runaway: Any) -> None:
    assert runaway.status()["bad"]["limits"] == ["memory 64 MiB (cgroup)", "cpu 0.25 (cgroup)", "processes 10 (cgroup)"]
    (group,) = groups(machine)
    said = machine.run(f"cd {GROUP}/{group} && cat memory.max memory.swap.max memory.oom.group pids.max cpu.max").splitlines()
    assert said == [str(64 << 20), "0", "1", "10", "25000 100000"]
    assert len(machine.run(f"cat {GROUP}/{group}/cgroup.procs").split()) == 1
    # The agent, the zygote and the worker without limits.
    assert len(machine.run(f"cat {GROUP}/agent/cgroup.procs").split()) == 3


def test_a_worker_whose_children_eat_memory_is_ended_whole(machine: Machine, runaway: Any) -> None:
    reason = "killed: used more than limits.memory (64 MiB)"
    failed = asked(machine, "[hold(30 << 20) for _ in range(4)] and time.sleep(1000)")
    assert (failed["code"], reason in failed["body"]) == ("worker_died", True), failed
    assert reason in runaway.until(lambda status: status["bad"]["workers_ready"] == 1)["bad"]["last_error"]
    assert len(groups(machine)) == 1
    assert asked(machine, "2 + 2")["body"] == "4"
    assert machine.run("edgehost invoke good") == "well"


def test_a_fork_over_the_limit_fails_in_the_handler(machine: Machine, runaway: Any) -> None:
    assert asked(machine, "forks(1000)")["body"] == "9 and Resource temporarily unavailable"
    asked(machine, "os._exit(1)")
    runaway.until(lambda status: status["bad"]["workers_ready"] == 1)
    (group,) = groups(machine)
    assert machine.run(f"cat {GROUP}/{group}/pids.current").strip() == "1"


def test_a_share_of_the_processor_is_all_it_gets(machine: Machine, runaway: Any) -> None:
    assert float(asked(machine, "spin(4)")["body"]) < 0.4


@pytest.mark.parametrize("how", ["kill --signal=KILL --kill-whom=main", "restart"])
def test_no_group_outlives_its_agent(machine: Machine, runaway: Any, how: str) -> None:
    (before,) = groups(machine)
    machine.run(f"systemctl {how} edgehost")
    runaway.until(lambda status: bool(status) and status["bad"]["workers_ready"] == 1)
    assert len(groups(machine)) == 1
    assert len(temporary(machine)) == 1
    assert before


def test_an_old_landlock_keeps_files_and_says_what_it_does_not_keep(machine: Machine, runaway: Any) -> None:
    said = runaway.status()["bad"]["sandbox"]
    assert said.startswith("Landlock ") and "files" in said and "; network all" in said
    assert "Errno 13" in asked(machine, "open('/srv/functions/good/main.py')")["body"]


def test_a_stop_leaves_no_group_and_no_folder(machine: Machine, runaway: Any) -> None:
    assert len(temporary(machine)) == 1
    machine.run("systemctl stop edgehost")
    assert temporary(machine) == []
    assert machine.run(f"ls -d {GROUP}", check=False).startswith("ls: cannot access")
