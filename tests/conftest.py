"""What every test may use: the `needs` marker, free ports, and the promise that a test leaves the process as it found it.

Knows nothing of edgehost itself, so that a broken import shows up in the tests of that module and not everywhere.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

SERVER_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
SETTLE_S = 10.0


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


def _descendants() -> dict[int, str]:
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            found[process.pid] = f"{process.pid} {process.status()} {' '.join(process.cmdline())[:120]}"
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture
def whole_again() -> Iterator[None]:
    """Asserts that after the test no child process and no file descriptor is left that was not there before.

    Ask for it FIRST (`@pytest.mark.usefixtures("whole_again")`), so that it looks after the other fixtures have cleaned up.
    """
    files, children = _open_files(), _descendants()
    yield
    deadline = time.monotonic() + SETTLE_S
    while True:
        left_files = {fd: name for fd, name in _open_files().items() if fd not in files}
        left_children = {pid: name for pid, name in _descendants().items() if pid not in children}
        if not left_files and not left_children:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: processes {sorted(left_children.values())}, descriptors {left_files}")
        time.sleep(0.02)
