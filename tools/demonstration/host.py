"""The agent under demonstration, as a process of its own, started as anybody would start it; and what it costs in memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from edgehost.control.client import Client
from edgehost.control.protocol import FunctionStatus
from edgehost.errors import EdgehostError

READY_S = 60.0
END_S = 20.0


class Host:
    """`edgehost agent` with these functions and this broker; `start` returns when all of them are ready."""

    def __init__(self, functions: Sequence[Path], broker_url: str, socket: Path, log: Path) -> None:
        self.log = log
        self.start_s = 0.0
        """From the first instruction of the process to the last function's readiness."""
        self._socket = socket
        self._arguments = [f"--function={folder}" for folder in functions]
        self._arguments += [f"--broker={broker_url}", f"--socket={socket}", "--log-format=text", "--log-level=info"]
        self._arguments += [f"--state={log.parent / 'state'}"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises RuntimeError, with the reason and the end of the log, when a function does not become ready."""
        began = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "edgehost.agent", *self._arguments], stderr=log)
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() - began > READY_S:
                raise RuntimeError(f"the agent did not become ready; the end of {self.log}:\n{self.last_lines(15)}")
            time.sleep(0.05)
        self.start_s = time.monotonic() - began

    def functions(self) -> dict[str, FunctionStatus]:
        """How the functions are, by name; empty while no agent answers."""
        try:
            with Client.connect(self._socket, 5.0) as client:
                return {status.name: status for status in client.functions()}
        except EdgehostError:
            return {}

    def _ready(self) -> bool:
        functions = self.functions().values()
        for status in functions:
            if status.state == "failed":
                raise RuntimeError(f"the function {status.name} did not start: {status.last_error}")
        return bool(functions) and all(
            status.state == "ready" and all(trigger.state == "running" for trigger in status.triggers) for status in functions
        )

    def stop(self) -> int:
        """Ask it to end as systemd would; its exit status."""
        if self._process is None:
            return 0
        self._process.terminate()
        try:
            return self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def last_lines(self, count: int) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-count:])

    def memory(self) -> dict[str, int]:
        """PSS in bytes: of the agent's own process, and of all its children (zygotes and workers) together."""
        if self._process is None:
            return {}
        agent = psutil.Process(self._process.pid)
        children = agent.children(recursive=True)
        return {"agent": pss_bytes(agent.pid), "zygotes and workers": sum(pss_bytes(child.pid) for child in children)}


def pss_bytes(pid: int) -> int:
    """Memory of one process with what it shares divided among the sharers (proc(5), smaps_rollup); 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
