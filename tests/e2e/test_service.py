"""A real agent under a service manager: what systemd would hear on $NOTIFY_SOCKET, from the start to the end."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = float(os.environ.get("EDGEHOST_TEST_PATIENCE_S", "30"))
BEAT_S = 0.2

HANG = """
import asyncio, msgspec, pathlib, time

class Settings(msgspec.Struct, frozen=True):
    when: str

class Hang:
    Settings, replies = Settings, False

    def __init__(self, settings, host):
        self.when, self.loop = pathlib.Path(settings.when), asyncio.get_running_loop()

    async def start(self):
        if self.when.exists():
            time.sleep(1000)
        self.timer = self.loop.call_later(0.05, lambda: self.loop.create_task(self.start()))

    async def stop(self):
        self.timer.cancel()
"""
"""A trigger that does what no trigger may: it stops the agent's loop."""


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._waiting: deque[str] = deque()
        self.heard: list[str] = []
        """Every assignment that was looked at so far."""

    def hear(self, wanted: str) -> str:
        """The next assignment that begins with `wanted`."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            while self._waiting:
                self.heard.append(self._waiting.popleft())
                if self.heard[-1].startswith(wanted):
                    return self.heard[-1]
            self._listen(0.5)
        pytest.fail(f"waited for {wanted}; heard {list(dict.fromkeys(self.heard))}")

    def _listen(self, seconds: float) -> None:
        self._listener.settimeout(seconds)
        try:
            self._waiting.extend(self._listener.recv(4096).decode().splitlines())
        except TimeoutError:
            pass

    def is_silent(self, seconds: float) -> bool:
        """No sign of life within this time, after what was already on its way."""
        time.sleep(BEAT_S)
        self._listener.setblocking(False)
        try:
            while self._listener.recv(4096):
                pass
        except BlockingIOError:
            self._waiting.clear()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and "WATCHDOG=1" not in self._waiting:
            self._listen(BEAT_S)
        return "WATCHDOG=1" not in self._waiting


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("WATCHDOG_USEC", str(int(BEAT_S * 3 * 1e6)))
        yield Manager(listener)


def test_a_service_from_start_to_end(manager, agent, bundle):
    names = "'NOTIFY_SOCKET', 'WATCHDOG_USEC'"
    tell = f"import os\ndef handler(context, event):\n    return [name for name in ({names}) if name in os.environ]"
    one = agent(bundle("echo"), bundle("tell", tell), bundle("rtd", "raise ImportError('no rtd')"))
    assert manager.hear("STATUS=2 of 3 functions run; rtd failed: ").endswith("no rtd")
    assert "READY=1" in manager.heard
    assert "EXTEND_TIMEOUT_USEC=30000000" in manager.heard
    for _ in range(3):
        manager.hear("WATCHDOG=1")
    assert one.invoke("tell").body == b"[]"
    assert one.stop() == 0
    manager.hear("STOPPING=1")


def test_an_agent_that_stands_still_gives_no_sign_of_life(manager, agent, bundle):
    one = agent(bundle("echo"))
    manager.hear("WATCHDOG=1")
    os.kill(one.process.pid, signal.SIGSTOP)
    try:
        assert manager.is_silent(BEAT_S * 5)
    finally:
        os.kill(one.process.pid, signal.SIGCONT)
    manager.hear("WATCHDOG=1")
    assert one.invoke("echo", b"hi").body == b"hi"


def test_a_loop_that_hangs_gives_no_sign_of_life(manager, agent, bundle, tmp_path, monkeypatch, gone):
    plugins = tmp_path / "plugins"
    (plugins / "hang-1.dist-info").mkdir(parents=True)
    (plugins / "hang.py").write_text(HANG)
    (plugins / "hang-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: hang\nVersion: 1\n")
    (plugins / "hang-1.dist-info" / "entry_points.txt").write_text("[edgehost.triggers]\nhang = hang:Hang\n")
    monkeypatch.setenv("PYTHONPATH", str(plugins))
    one = agent(bundle("echo", manifest=f'[triggers.t]\nkind = "hang"\nwhen = "{tmp_path / "now"}"\n'))
    manager.hear("WATCHDOG=1")
    (tmp_path / "now").touch()
    assert manager.is_silent(BEAT_S * 5)
    children = one.children()
    one.process.kill()  # as systemd does at the end of WatchdogSec=
    one.process.wait()
    for child in children:
        gone(child)


@pytest.fixture
def functions(bundle, tmp_path: Path) -> Path:
    """An edgehost.toml's list of functions: `echo` alone; `a`, `b` and `bad` lie ready."""
    bundle("echo")
    bundle("a", "handler = lambda context, event: 'a1'")
    bundle("b", "handler = lambda context, event: 'b'")
    return tmp_path / "functions"


def config(functions: Path, *names: str, more: str = "") -> str:
    return f"[agent]\nfunctions = {[str(functions / name) for name in names]}\n{more}"


def reload_by_signal(one, manager: Manager) -> str:
    """The status after it."""
    os.kill(one.process.pid, signal.SIGHUP)
    manager.hear("RELOADING=1")
    manager.hear("MONOTONIC_USEC=")
    manager.hear("READY=1")
    return manager.hear("STATUS=").removeprefix("STATUS=")


def test_a_reload_changes_what_has_changed(manager, agent, functions):
    one = agent(config=config(functions, "echo", "a"))
    file = one.socket.parent / "edgehost.toml"
    echo = one.children()
    (functions / "a" / "main.py").write_text("handler = lambda context, event: 'a2'")
    file.write_text(config(functions, "echo", "a", "b"))
    assert reload_by_signal(one, manager) == "3 of 3 functions run"
    assert (one.invoke("a").body, one.invoke("b").body) == (b"a2", b"b")
    assert echo & one.children(), "what has not changed keeps its workers"
    file.write_text(config(functions, "b"))
    assert reload_by_signal(one, manager) == "1 of 1 functions run"
    assert set(one.functions()) == {"b"}


def test_a_reload_with_an_error_keeps_the_old(manager, agent, functions):
    one = agent(config=config(functions, "echo", "a"))
    file = one.socket.parent / "edgehost.toml"
    file.write_text(config(functions, "b", more="[http]\nlisten = 3\n"))
    told = reload_by_signal(one, manager)
    assert told.startswith("2 of 2 functions run; not reloaded: ")
    assert "listen" in told
    file.write_text(config(functions, "echo", "a"))
    (functions / "a" / "function.toml").write_text('name = "a"\nworkers = 0\n')
    assert "workers" in reload_by_signal(one, manager)
    (functions / "a" / "function.toml").write_text('name = "a"\nhandler = "main:gone"\n')
    assert "the version before goes on" in reload_by_signal(one, manager)
    assert (one.invoke("echo", b"hi").body, one.invoke("a").body) == (b"hi", b"a1")
    (functions / "a" / "function.toml").write_text('name = "a"\nhandler = "main:handler"\n')
    assert reload_by_signal(one, manager) == "2 of 2 functions run"


def test_what_is_mended_runs_after_a_reload(manager, agent, functions):
    one = agent(config=config(functions, "echo", "new"))
    assert one.functions()["new"].state == "failed"
    (functions / "new").mkdir()
    (functions / "new" / "main.py").write_text("def handler(context, event):\n    return 'new'")
    (functions / "new" / "function.toml").write_text('name = "fresh"\nhandler = "main:handler"\n')
    assert reload_by_signal(one, manager) == "2 of 2 functions run"
    assert one.invoke("fresh").body == b"new"


def test_a_terminal_that_goes_away_ends_the_agent_in_order(bundle, tmp_path, whole_again):
    leader, terminal = os.openpty()
    command = [sys.executable, "-m", "edgehost.agent", f"--function={bundle('echo')}", f"--socket={tmp_path / 's'}"]

    def take() -> None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=terminal, stdout=log, stderr=log, start_new_session=True, preexec_fn=take)
    os.close(terminal)
    deadline = time.monotonic() + PATIENCE_S
    while "is ready" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.close(leader)
    assert process.wait(PATIENCE_S) == 0
    assert "is stopping" in (tmp_path / "log").read_text()
