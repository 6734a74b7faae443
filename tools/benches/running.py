"""A real agent as a process of its own, as it is installed, for a bench to load and to ask. Measures nothing itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_server

import psutil

from edgehost.control.client import Client
from edgehost.control.protocol import FunctionStatus
from edgehost.errors import EdgehostError

_START_S = 30.0


@dataclass(frozen=True)
class Code:
    """One function of a bench: its manifest and the text of its `main.py`."""

    manifest: str
    handler: str = "def handler(context, event):\n    return event.body\n"


class Agent:
    """A running agent: what it says of its functions, and what it costs."""

    def __init__(self, process: subprocess.Popen[bytes], socket: Path) -> None:
        self.process = psutil.Process(process.pid)
        self._socket = socket

    def functions(self) -> dict[str, FunctionStatus]:
        """Every function by its name. Raises EdgehostError while the agent does not answer."""
        with Client.connect(self._socket, timeout_s=10.0) as client:
            return {status.name: status for status in client.functions()}

    def cpu_s(self) -> float:
        """CPU seconds the agent process itself has spent, user and system."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def agent(folder: Path, functions: Mapping[str, Code], options: Sequence[str] = ()) -> Iterator[Agent]:
    """An agent with these functions, each `ready`; its files and its log lie in `folder`, and it ends with the block."""
    socket = folder / "agent.sock"
    command = [sys.executable, "-m", "edgehost.agent", "--socket", str(socket), "--state", str(folder / "state")]
    command += ["--log-level", "warning", *options]
    for name, code in functions.items():
        (folder / name).mkdir()
        (folder / name / "function.toml").write_text(f'name = "{name}"\n{code.manifest}')
        (folder / name / "main.py").write_text(code.handler)
        command += ["--function", str(folder / name)]
    with process(command, folder / "agent.log") as started:
        running = Agent(started, socket)
        _wait(running, started)
        yield running


def _wait(running: Agent, started: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and started.poll() is None:
        try:
            if all(status.state == "ready" for status in running.functions().values()):
                return
        except EdgehostError:
            pass  # its socket is not there yet
        time.sleep(0.05)
    raise SystemExit("the agent did not become ready; its log is above")


@contextmanager
def process(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child that ends with the block; what it logged is shown if the block fails."""
    # Measured as it is installed: with bytecode, whatever the shell says.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield started
    except BaseException:
        sys.stderr.write(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
