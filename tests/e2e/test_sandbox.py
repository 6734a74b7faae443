"""Limits, sandbox and secrets of functions in a running agent: what a person sees of them, and what a spy beside finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgehost.control.client import Client
from edgehost.engine import landlock

needs_landlock = pytest.mark.skipif(landlock.version() < landlock.SCOPE_ABI, reason="needs Landlock 6 (Linux 6.12)")
SECRET = "s3cr3t-5f0c2a77d1"

ASK = """
import ctypes, inspect, os, tempfile, time
from pathlib import Path

def handler(context, event):
    try:
        answer = eval(event.body.decode(), {**globals(), "context": context})
        return answer if inspect.isgenerator(answer) else str(answer)
    except OSError as error:
        return f"{type(error).__name__}: {error}"

def fork(count):
    try:
        for _ in range(count):
            if os.fork() == 0:
                time.sleep(1000)
    except BlockingIOError:  # RLIMIT_NPROC, which root does not feel, is quicker than the watch
        pass
    time.sleep(1000)

def fill(count):
    for number in range(count):
        Path(tempfile.gettempdir(), str(number)).write_bytes(bytes(65536))
    time.sleep(1000)

def hold(count):
    for _ in range(count):
        if os.fork() == 0:
            block = bytearray(30 << 20)
            time.sleep(1000)
    time.sleep(1000)

def fail(context):
    raise ValueError(f"cannot log in with {context.secrets['db']!r}")

def stream(context):
    yield fail(context)
"""


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    """A file that holds SECRET."""
    file = tmp_path / "vault" / "db"
    file.parent.mkdir(mode=0o700)
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    return file


def grant(vault: Path) -> str:
    return f'[secrets.db]\nfile = "{vault}"\nfunctions = ["holder"]\n'


def told(running: Any, name: str, expression: str) -> str:
    return bytes(running.invoke(name, expression.encode()).body).decode()


def command(running: Any, *words: str) -> str:
    """What a command of edgehost says."""
    line = [sys.executable, "-m", "edgehost.cli.entry", *words, f"--socket={running.socket}"]
    return subprocess.run(line, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "300"}).stdout


@pytest.mark.parametrize(
    ("limits", "expression", "reason"),
    [
        ("memory = '64MiB'", "hold(4)", "killed: used more than limits.memory (64 MiB)"),
        ("processes = 10", "fork(1000)", "killed: more processes than limits.processes (10)"),
        ("temp = '1MiB'", "fill(200)", "killed: used more than limits.temp (1 MiB)"),
        ("cpu_s = 1", "[None for _ in iter(int, 1)]", "limits.cpu_s is spent"),
    ],
)
def test_a_runaway_is_stopped_and_its_reason_shown_while_others_go_on(
    agent: Any, bundle: Any, gone: Callable[[int], None], limits: str, expression: str, reason: str
) -> None:
    running = agent(bundle("bad", ASK, f"[limits]\n{limits}\n"), bundle("good"))
    good = json.loads(command(running, "functions", "--json"))["functions"][1]
    before = psutil.Process(running.process.pid).num_fds()
    worker = int(told(running, "bad", "os.getpid()"))
    assert running.invoke("bad", expression.encode()).code == "worker_died"
    gone(worker)
    assert reason in running.wait_until_full("bad").last_error
    assert reason in " ".join(command(running, "functions").split())
    assert told(running, "bad", "len(os.listdir(tempfile.gettempdir()))") == "0"
    assert running.functions()["good"].failed == good["failed"] == 0
    assert running.invoke("good", b"well").body == b"well"
    running.wait(lambda: psutil.Process(running.process.pid).num_fds() <= before, f"{before} descriptors again")
    assert len(running.children()) == 3  # the zygote and two workers


def test_what_holds_is_shown(agent: Any, bundle: Any) -> None:
    running = agent(bundle("f", ASK, "[limits]\nmemory = '64MiB'\ncpu = 0.5\ntemp = '1MiB'\n[sandbox]\nnetwork = [1883]\n"))
    (shown,) = json.loads(command(running, "functions", "--json"))["functions"]
    assert [limit.partition(" (")[0] for limit in shown["limits"]] == ["memory 64 MiB", "cpu 0.5", "temp 1 MiB"]
    assert shown["sandbox"] == running.functions()["f"].sandbox
    picture = " ".join(command(running, "functions").split())
    assert f"limits: {', '.join(shown['limits'])}" in picture
    assert f"sandbox: {shown['sandbox']}" in picture


def test_nothing_of_workers_is_left_in_the_temporary_folder(
    agent: Any, bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setenv("TMPDIR", str(temp))
    killed = agent(bundle("f", ASK))
    told(killed, "f", "Path(tempfile.gettempdir(), 'file').write_text('x')")
    killed.process.kill()
    killed.process.wait()
    assert len(list(temp.glob("*/*/file"))) == 1
    after = agent(tmp_path / "functions" / "f")
    assert not list(temp.glob("*/*/file"))
    assert len(list(temp.glob("*/*"))) == 1
    assert after.stop() == 0
    assert list(temp.iterdir()) == []


def test_a_secret_is_for_its_function_alone(agent: Any, bundle: Any, vault: Path) -> None:
    folders = (bundle("holder", ASK, 'secrets = ["db"]\n'), bundle("spy", ASK), bundle("greedy", ASK, 'secrets = ["db"]\n'))
    running = agent(*folders, config=grant(vault))
    assert told(running, "holder", "context.secrets['db']") == SECRET
    assert told(running, "holder", "context.secrets") == "<secrets: db>"
    assert "the manifest names no secret 'db'" in told(running, "spy", "context.secrets['db']")
    status = running.functions()["greedy"]
    assert (status.state, status.workers_ready) == ("failed", 0)
    assert "secrets: 'db' is not for the function 'greedy'; add it to [secrets.db].functions" in status.last_error


@needs_landlock
def test_a_spy_beside_finds_no_secret(agent: Any, bundle: Any, vault: Path) -> None:
    opened = f"[sandbox]\nread = ['{vault.parent.parent}', '/proc']\n"
    running = agent(bundle("holder", ASK, 'secrets = ["db"]\n'), bundle("spy", ASK, opened), config=grant(vault))
    holder = int(told(running, "holder", "os.getpid()"))
    assert told(running, "spy", f"'main' in os.listdir('{vault.parent.parent}/functions/holder')[0]") == "True"
    zygote = psutil.Process(holder).ppid()
    assert told(running, "spy", f"open({str(vault)!r}).read()").startswith("PermissionError")
    for pid in (holder, zygote, running.process.pid):
        for name in ("mem", "environ", "maps", "fd/0", "fdinfo/0", "root/etc/passwd", "cwd/main.py"):
            assert told(running, "spy", f"open('/proc/{pid}/{name}', 'rb').read(1)").startswith("PermissionError"), name
        assert told(running, "spy", f"os.readlink('/proc/{pid}/fd/0')").startswith("PermissionError")
        assert told(running, "spy", f"ctypes.CDLL(None).ptrace(16, {pid}, 0, 0)") == "-1"  # PTRACE_ATTACH
    # Landlock alone keeps it out: a worker that hid (PR_GET_DUMPABLE) would show the agent nothing of what it uses either.
    assert told(running, "holder", "ctypes.CDLL(None).prctl(3)") == "1"


def test_a_worker_with_secrets_hides_where_nothing_else_keeps_others_out(agent: Any, bundle: Any, vault: Path) -> None:
    off = 'secrets = ["db"]\n[sandbox]\nenabled = false\n'
    hides, shows = bundle("hides", ASK, off), bundle("shows", ASK, f'{off}[limits]\nmemory = "1GiB"\ntemp = "1GiB"\n')
    running = agent(hides, shows, config=grant(vault).replace('"holder"', '"hides", "shows"'))
    assert told(running, "hides", "ctypes.CDLL(None).prctl(3)") == "0"
    assert told(running, "shows", "ctypes.CDLL(None).prctl(3)") == "1"


def test_a_secret_is_nowhere_but_in_its_worker(agent: Any, bundle: Any, vault: Path) -> None:
    running = agent(bundle("holder", ASK, 'secrets = ["db"]\n'), config=grant(vault))
    worker = int(told(running, "holder", "os.getpid()"))
    for asked in (b"fail(context)", b"stream(context)"):
        assert bytes(running.invoke("holder", asked).body) == b"cannot log in with '***'"
    told(running, "holder", "context.logger.info('it is %s', context.secrets['db'])")
    told(running, "holder", "context.logger.info_with('it is', value=[context.secrets['db']])")
    told(running, "holder", "print(context.secrets['db'])")
    running.wait_for_log("holder", "it is ***")
    running.wait(lambda: running.log.count("***") >= 4, "every line")
    shown = running.functions()["holder"]
    assert shown.last_error == "cannot log in with '***'"
    assert SECRET not in running.log and SECRET not in command(running, "functions", "--json")
    for pid in (worker, psutil.Process(worker).ppid(), running.process.pid):
        for name in ("environ", "cmdline"):
            assert SECRET.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert SECRET.encode() in memory_of(worker)
    assert SECRET.encode() not in memory_of(psutil.Process(worker).ppid()), "the zygote has seen it"


def memory_of(pid: int) -> bytes:
    """All that a process may write to in its memory."""
    found = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights = line.split()[:2]
            begin, end = (int(text, 16) for text in place.split("-"))
            if rights.startswith("rw"):
                try:
                    memory.seek(begin)
                    found += memory.read(end - begin)
                except OSError:
                    continue
    return bytes(found)


@needs_landlock
@pytest.mark.parametrize(
    ("manifest", "changed"),
    [
        ('name = "mine"\n[sandbox]\nenabled = false\n', "sandbox"),
        ('name = "mine"\nsecrets = ["db"]\n[sandbox]\nwrite = ["."]\n', "secrets"),
        ('name = "holder"\n[sandbox]\nwrite = ["."]\n', "name"),
        ('name = "mine"\n[sandbox]\nwrite = ["."]\n[triggers.x]\nkind = "exec"\ncommand = ["id"]\n', "triggers"),
    ],
    ids=["sandbox", "secrets", "name", "triggers"],
)
def test_a_function_gives_itself_nothing_by_a_reload(agent: Any, bundle: Any, vault: Path, manifest: str, changed: str) -> None:
    mine = bundle("mine", ASK, "[sandbox]\nwrite = ['.']\n")
    running = agent(mine, config=grant(vault).replace('"holder"', '"holder", "mine"'))
    assert "mine: may write its own manifest ([sandbox] write)" in running.log
    wanted = f'handler = "main:handler"\n{manifest}'
    assert told(running, "mine", f"Path('function.toml').write_text({wanted!r})") == str(len(wanted))
    with Client.connect(running.socket, 30) as client:
        (problem,) = client.reload().problems
    assert f"function.toml: {changed} changed, and the function 'mine' may write there ([sandbox] write); restart" in problem
    (status,) = running.functions().values()
    assert (status.name, status.state, status.triggers) == ("mine", "ready", [])
    assert told(running, "mine", f"open({str(vault)!r}).read()").startswith("PermissionError")


def test_code_of_a_function_that_may_write_it_is_reloaded(agent: Any, bundle: Any) -> None:
    mine = bundle("mine", ASK, "[sandbox]\nwrite = ['.']\n")
    running = agent(mine)
    (mine / "main.py").write_text("handler = lambda context, event: 'new'")
    (mine / "function.toml").write_text(f'version = "2.0.0"\n{(mine / "function.toml").read_text()}')
    reload(running)
    assert told(running, "mine", "") == "new"


def test_a_name_stays_with_the_folder_it_runs_from(agent: Any, bundle: Any, vault: Path) -> None:
    thief, holder = bundle("thief", ASK), bundle("holder", ASK, 'secrets = ["db"]\n')
    running = agent(thief, holder, config=grant(vault))
    (thief / "function.toml").write_text((holder / "function.toml").read_text())
    with Client.connect(running.socket, 30) as client:
        (problem,) = client.reload().problems
    assert f"thief/function.toml: name 'holder' is taken by {holder}" in problem
    assert told(running, "holder", "os.getcwd()") == str(holder)
    assert told(running, "thief", "os.getcwd()") == str(thief)


def test_a_reload_grants_and_revokes(agent: Any, bundle: Any, vault: Path, tmp_path: Path) -> None:
    running = agent(bundle("other", ASK, 'secrets = ["db"]\n'), config=grant(vault))
    assert running.functions()["other"].state == "failed"
    file = tmp_path / "agent0" / "edgehost.toml"
    file.write_text(grant(vault).replace("holder", "other"))
    reload(running)
    running.wait_until_full("other")
    assert told(running, "other", "context.secrets['db']") == SECRET
    file.write_text(grant(vault))
    reload(running)
    running.invoke("other", b"os._exit(1)")
    running.wait(lambda: "secrets: 'db' is not for the function 'other'" in running.log.splitlines()[-1], "the refusal")
    assert running.functions()["other"].workers_ready == 0


def reload(running: Any) -> None:
    with Client.connect(running.socket, 30) as client:
        assert client.reload().problems == []


def test_a_secret_that_is_mended_lets_its_function_start(agent: Any, bundle: Any, vault: Path) -> None:
    vault.chmod(0o644)
    running = agent(bundle("holder", ASK, 'secrets = ["db"]\n'), bundle("good"), config=grant(vault), until="others may read")
    status = running.wait_for_state("holder", "failed")
    assert f"secrets.db: {vault} has mode 0644, so others may read or change it; chmod 600 it" in status.last_error
    assert running.invoke("good", b"well").body == b"well"
    vault.chmod(0o600)
    running.wait_until_full("holder")
    assert told(running, "holder", "context.secrets['db']") == SECRET
    vault.write_text("changed")
    running.invoke("holder", b"os._exit(1)")
    running.wait_until_full("holder")
    assert told(running, "holder", "context.secrets['db']") == "changed"
