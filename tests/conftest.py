"""What every test may use: the `needs` marker, free ports, and the promise that a test leaves the process as it found it.

Knows nothing of edgehost itself, so that a broken import shows up in the tests of that module and not everywhere.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

SERVER_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
SETTLE_S = 10.0
PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans of our descendants become our children instead of init's


def find_component(name: str) -> str | None:
    """Where a component is, or None. `module:onnxruntime` names a Python module, anything else an executable.

    Servers live in sbin folders, which are often not on PATH.
    """
    if name.startswith("module:"):
        module = name.removeprefix("module:")
        return module if importlib.util.find_spec(module) else None
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(SERVER_FOLDERS))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test whose component is missing skips at home and fails in CI, where a skip would be a hole nobody sees."""
    for marker in item.iter_markers("needs"):
        missing = [name for name in marker.args if find_component(name) is None]
        if not missing:
            continue
        reason = f"needs {', '.join(missing)}; tools/test installs it where it may"
        if os.environ.get("CI"):
            pytest.fail(f"{reason} (a missing component fails the test when CI is set)", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or leaves what must survive a restart: each has a state folder of its own, and what it starts inherits it."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def component() -> Callable[[str], str]:
    """`component("mosquitto")`: the full path of an executable the test has named with `needs`."""

    def path(name: str) -> str:
        found = find_component(name)
        assert found is not None, f"{name} is not here; mark the test with @pytest.mark.needs({name!r})"
        return found

    return path


@pytest.fixture
def free_port() -> Callable[[], int]:
    """`free_port()`: a TCP port on 127.0.0.1 that nothing listens on, for servers that cannot bind port 0 and tell."""
    given: set[int] = set()

    def port() -> int:
        while True:
            with socket.create_server(("127.0.0.1", 0)) as server:
                number: int = server.getsockname()[1]
            if number not in given:
                given.add(number)
                return number

    return port


def _open_files() -> dict[int, str]:
    files = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            files[int(entry.name)] = str(entry.readlink())
        except OSError:  # the descriptor that lists the folder is gone by now
            continue
    return files


def _adopt_orphans(adopt: bool) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # a grandchild, or somebody has waited for it
        pass


def _descendants() -> dict[int, str]:
    """Living processes below this one. Dead adopted orphans are buried here: nobody else waits for them."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                _reap(process.pid)
            else:
                found[process.pid] = f"{process.pid} {' '.join(process.cmdline())[:120]}"
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture
def whole_again() -> Iterator[None]:
    """Asserts that after the test no process and no file descriptor is left that was not there before.

    Orphans count: while the test runs, this process adopts them, so a daemon that a worker left behind is seen too. Ask for it
    FIRST (`@pytest.mark.usefixtures("whole_again")`), so that it looks after the other fixtures have cleaned up.
    """
    files, children = _open_files(), _descendants()
    _adopt_orphans(True)
    try:
        yield
        left = _what_stays(files, children)
    finally:
        _adopt_orphans(False)
    if left:
        _kill_new(children)
        pytest.fail(f"left behind: {left}")


def _kill_new(children: dict[int, str]) -> None:
    """What the failed test left would outlive the whole run otherwise."""
    for pid in _descendants().keys() - children.keys():
        os.kill(pid, signal.SIGKILL)


def _what_stays(files: dict[int, str], children: dict[int, str]) -> list[str]:
    deadline = time.monotonic() + SETTLE_S
    while True:
        new_files = [f"descriptor {fd} {name}" for fd, name in _open_files().items() if fd not in files]
        new_children = [f"process {name}" for pid, name in _descendants().items() if pid not in children]
        left = new_files + new_children
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)
