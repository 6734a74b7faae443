"""Lines of a command as events, and what becomes of the command. Real processes; the agent is a fake."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgehost.children import INHERITED
from edgehost.event import Event, Response
from edgehost.manifest.conversion import to_struct
from edgehost.manifest.problem import Mistake
from edgehost.triggers.exec import ExecSettings, ExecTrigger

Until = Callable[[Callable[[], object]], Awaitable[None]]
pytestmark = pytest.mark.usefixtures("whole_again")


class Commands:
    """Triggers that run commands; all are stopped at the end."""

    def __init__(self, make_host: Callable[..., Any]) -> None:
        self._make_host = make_host
        self.host: Any = None
        self.triggers: list[ExecTrigger] = []

    async def run(self, *command: str, answer: Any = None, **settings: Any) -> Any:
        self.host = self._make_host(**({"answer": answer} if answer else {}))
        trigger = ExecTrigger(to_struct({"command": list(command), **settings}, ExecSettings), self.host)
        await trigger.start()
        self.triggers.append(trigger)
        return self.host

    async def sh(self, script: str, **what: Any) -> Any:
        return await self.run("sh", "-c", script, **what)

    async def python(self, code: str, **what: Any) -> Any:
        return await self.run(sys.executable, "-I", "-c", code, **what)

    async def stop(self) -> None:
        for trigger in self.triggers:
            await asyncio.wait_for(trigger.stop(), 20)
        self.triggers.clear()

    @property
    def lines(self) -> list[bytes]:
        return [event.body for event in self.host.events]

    @property
    def told(self) -> tuple[str, str]:
        return self.host.reports[-1] if self.host.reports else ("", "")

    @property
    def pid(self) -> int:
        (pid,) = self.host.children
        return int(pid)


@pytest.fixture
async def commands(host: Callable[..., Any]) -> AsyncIterator[Commands]:
    made = Commands(host)
    yield made
    await made.stop()
    assert made.host is None or made.host.children == set()


async def test_lines_are_events(commands: Commands, until: Until) -> None:
    await commands.sh("printf 'one\\ntwo\\r\\n\\nthr'; printf 'ee\\nlast'; exec sleep 1000")
    await until(lambda: len(commands.lines) == 3)
    assert commands.lines == [b"one", b"two", b"three"]
    first = commands.host.events[0]
    assert (first.content_type, first.trigger) == ("text/plain", commands.host.origin)
    assert re.fullmatch("web-[0-9a-f]{8}-1", first.id)
    assert commands.told == ("running", f"sh runs as process {commands.pid}")
    await commands.stop()
    assert commands.lines[3:] == [b"last"], "the end of the stream ends the last line"


async def test_it_runs_in_its_folder_with_a_small_environment(commands: Commands, until: Until, monkeypatch: Any) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "secret")
    await commands.sh("pwd; env; cat; ps -o pgid= -p $$; exec sleep 1000", env={"UNIT": "C"})
    await until(lambda: any(line.strip() == b"%d" % commands.pid for line in commands.lines))
    assert os.fsencode(commands.host.folder) in commands.lines
    names = {line.partition(b"=")[0] for line in commands.lines if b"=" in line}
    assert b"UNIT" in names and b"BROKER_PASSWORD" not in names
    assert names <= {name.encode() for name in (*INHERITED, "UNIT", "PWD", "OLDPWD", "SHLVL", "_")}


async def test_signals_are_as_a_program_expects_them(commands: Commands, until: Until) -> None:
    await commands.sh("grep -E 'SigIgn|SigBlk' /proc/self/status; exec sleep 1000")
    await until(lambda: len(commands.lines) == 2)
    of_glibc = 1 << 31 | 1 << 32  # signals 32 and 33, for threads: no program can ask for them, a thread may have them blocked
    assert [int(line.split()[1], 16) & ~of_glibc for line in commands.lines] == [0, 0]


async def test_a_command_that_ends_is_started_again_with_the_reason(commands: Commands, until: Until) -> None:
    await commands.sh("echo line; echo no such device >&2; exit 3")
    await until(lambda: len(commands.lines) == 2)
    told = ("degraded", 'sh ended: exit status 3, and its last words were "no such device"; it is started again')
    await until(lambda: commands.host.reports.count(told) == 2)
    assert commands.host.counts["restarts"] >= 1


async def test_a_command_killed_by_a_signal_is_told_as_that(commands: Commands, until: Until) -> None:
    await commands.run("sleep", "1000")
    await until(lambda: commands.told[0] == "running")
    os.kill(commands.pid, signal.SIGKILL)
    await until(lambda: commands.told[0] == "degraded")
    assert commands.told[1] == "sleep ended: killed by SIGKILL; it is started again"
    await until(lambda: commands.told[0] == "running")


@pytest.mark.parametrize(
    ("restart", "script", "state"),
    [
        ("never", "exit 0", "stopped"),
        ("never", "exit 1", "failed"),
        ("on-failure", "exit 0", "stopped"),
        ("on-failure", "exit 1", "degraded"),
        ("always", "exit 0", "degraded"),
    ],
)
async def test_restart(commands: Commands, until: Until, restart: str, script: str, state: str) -> None:
    await commands.sh(f"echo once; {script}", restart=restart)
    await until(lambda: commands.told[0] == state)
    again = state == "degraded"
    await (until(lambda: len(commands.lines) > 1) if again else asyncio.sleep(0.6))
    assert (len(commands.lines) > 1) is again


async def test_a_slow_function_stops_the_command_and_loses_nothing(commands: Commands, until: Until) -> None:
    opened = asyncio.Event()

    async def answer(event: Event) -> Response:
        await opened.wait()
        return Response(200)

    count = 50_000
    await commands.run("seq", str(count), answer=answer, restart="never", max_in_flight=8)
    await until(lambda: len(commands.lines) == 8)
    await asyncio.sleep(0.2)
    assert len(commands.lines) == 8
    assert commands.told[0] == "running", "seq waits in its own write"
    opened.set()
    await until(lambda: commands.told[0] == "stopped")
    assert commands.lines == [b"%d" % number for number in range(1, count + 1)]


async def test_a_flood_leaves_the_agent_responsive_and_small(commands: Commands, until: Until) -> None:
    async def answer(event: Event) -> Response:
        await asyncio.sleep(0.001)
        return Response(200)

    await commands.sh("yes 'a line of output' & exec yes 'a line of error' >&2", answer=answer)
    await until(lambda: len(commands.lines) > 100)
    loop, before = asyncio.get_running_loop(), psutil.Process().memory_info().rss
    late = []
    for _ in range(30):
        due = loop.time() + 0.02
        await asyncio.sleep(0.02)
        late.append(loop.time() - due)
    assert sorted(late)[15] < 0.2
    commands.host.events.clear()
    assert psutil.Process().memory_info().rss - before < 64 << 20
    assert commands.host.counts["stderr_dropped"] > 0


async def test_stop_is_a_sigterm_and_its_last_lines_are_heard(commands: Commands, until: Until) -> None:
    await commands.sh("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    await until(lambda: commands.lines)
    await commands.stop()
    assert commands.lines == [b"up", b"bye"]


async def test_one_that_does_not_end_is_killed_with_all_it_started(commands: Commands, until: Until) -> None:
    await commands.sh("trap '' TERM; sleep 1000 & (sleep 1000 | sleep 1000) & echo up; wait; sleep 1000", grace="200ms")
    await until(lambda: commands.lines)
    await until(lambda: len(psutil.Process(commands.pid).children(recursive=True)) >= 3)
    group = psutil.Process(commands.pid).children(recursive=True)
    await commands.stop()
    assert not any(process.is_running() for process in group)


async def test_what_it_leaves_behind_ends_with_it(commands: Commands, until: Until) -> None:
    await commands.sh("sleep 1000 & echo $!; exit 0", restart="never")
    await until(lambda: commands.told[0] == "stopped")
    assert not psutil.pid_exists(int(commands.lines[0]))


AGENT = """
import asyncio, os
from pathlib import Path
from edgehost.triggers.exec.program import Program

async def main():
    null = os.open(os.devnull, os.O_WRONLY)
    script = "trap '' HUP INT TERM; (sleep 1000 & sleep 1000 | sleep 1000); :"
    print(Program(["sh", "-c", script], Path("/"), {}, null, null).pid, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


async def test_all_of_it_ends_when_the_agent_is_killed(until: Until) -> None:
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", AGENT, stdout=asyncio.subprocess.PIPE)
    assert agent.stdout is not None
    command = psutil.Process(int(await agent.stdout.readline()))
    await until(lambda: [process.name() for process in command.children(recursive=True)].count("sleep") == 3)
    group = [command, *command.children(recursive=True)]
    agent.kill()
    await agent.communicate()
    await until(lambda: not any(runs(process) for process in group))


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(("what", "nth"), [("pipe2", 1), ("pipe2", 2), ("pipe2", 3), ("pidfd_open", 1)])
async def test_a_start_without_room_is_told_and_leaves_nothing(
    commands: Commands, until: Until, monkeypatch: pytest.MonkeyPatch, what: str, nth: int
) -> None:
    real, asked = getattr(os, what), 0

    def full(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked % nth == 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(*args)

    monkeypatch.setattr(os, what, full)
    files = os.listdir("/proc/self/fd")  # noqa: PTH208
    await commands.run("sleep", "1000")
    await until(lambda: commands.told[0] == "failed")
    assert commands.told[1] == (
        f"sleep cannot be started in {commands.host.folder}: Too many open files; raise LimitNOFILE of the agent's service"
    )
    assert psutil.Process().children() == [] and os.listdir("/proc/self/fd") == files  # noqa: PTH208
    monkeypatch.undo()
    await until(lambda: commands.told[0] == "running")


async def test_a_command_that_closes_its_output_runs_on(commands: Commands, until: Until) -> None:
    await commands.sh("echo one; exec >&-; sleep 0.3; exit 4", restart="never")
    await until(lambda: commands.told[0] == "failed")
    assert commands.lines == [b"one"]
    assert "exit status 4" in commands.told[1]


async def test_a_pipe_that_somebody_else_holds_open_holds_up_nothing(commands: Commands, until: Until) -> None:
    await commands.sh("setsid sleep 1.5 & echo one; exit 0", restart="never")
    await until(lambda: commands.told[0] == "stopped")
    assert commands.lines == [b"one"]


@pytest.mark.parametrize(
    ("command", "cwd", "text"),
    [
        ("no-such-program", "", "no-such-program is not a program in PATH ("),
        ("./here", "", "here is not there; install it or mend command"),
        ("./plain", "", "plain is not executable; chmod +x it"),
        ("true", "away", "away is not a folder; make it, or name another one"),
    ],
)
async def test_a_command_that_is_not_there(
    commands: Commands, until: Until, tmp_path: Path, command: str, cwd: str, text: str
) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    await commands.run(command, cwd=cwd)
    await until(lambda: commands.told[0] == "failed")
    assert text in commands.told[1]


async def test_it_is_found_once_it_is_installed(commands: Commands, until: Until, tmp_path: Path) -> None:
    await commands.run("./reader")
    await until(lambda: commands.told[0] == "failed")
    (tmp_path / "reader").write_text("#!/bin/sh\necho hello\nexec sleep 1000\n")
    (tmp_path / "reader").chmod(0o755)
    await until(lambda: commands.lines == [b"hello"] and commands.told[0] == "running")


async def test_a_file_that_the_kernel_cannot_run(commands: Commands, until: Until, tmp_path: Path) -> None:
    (tmp_path / "reader").write_bytes(b"\x7fELF, but not really")
    (tmp_path / "reader").chmod(0o755)
    await commands.run("./reader")
    await until(lambda: commands.told[0] == "degraded")
    assert commands.told[1].startswith('./reader ended: exit status 127, and its last words were "cannot be run: ')


async def test_garbage_is_a_frame_or_is_counted(commands: Commands, until: Until) -> None:
    code = "import sys, time; sys.stdout.buffer.write(bytes(range(256)) * 1000); sys.stdout.flush(); time.sleep(1000)"
    await commands.python(code, framing={"kind": "line", "terminator": "0x0a0a", "frame_limit": "4KiB"})
    await asyncio.sleep(0.3)
    assert commands.lines == []
    assert commands.host.counts["too_long"] == 1


async def test_other_framings(commands: Commands, until: Until) -> None:
    await commands.sh(r"printf '\002\000\001abcxyz'; exec sleep 1000", framing={"kind": "fixed", "size": 3})
    await until(lambda: len(commands.lines) == 3)
    assert commands.lines == [b"\x02\x00\x01", b"abc", b"xyz"]


ADVICE = """"journalctl -u 'my unit'" is one text; write a list, the program first: ["journalctl", "-u", "my unit"]"""


@pytest.mark.parametrize(
    ("settings", "place", "text"),
    [
        ({"command": "journalctl -u 'my unit'"}, "command", ADVICE),
        ({"command": []}, "command", None),
        ({"command": [""]}, "command", "the first word is empty; it is the program"),
        ({"command": ["a\0"]}, "command", "no word may hold a NUL"),
        ({"command": ["a"], "env": {"A=B": "c"}}, "env", "a name is not empty and has no = in it"),
        ({"command": ["a"], "restart": "maybe"}, "restart", '"maybe" is not allowed; use "always", "never" or "on-failure"'),
        ({"command": ["a"], "overflow": "drop_newest"}, "overflow", None),
        ({}, "command", None),
    ],
)
def test_refused_settings(settings: dict[str, Any], place: str, text: str | None) -> None:
    with pytest.raises(Mistake) as caught:
        to_struct(settings, ExecSettings)
    assert caught.value.path == (place,)
    assert text is None or caught.value.text == text
