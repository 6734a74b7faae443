"""The agent under trial, as a process of its own, started as systemd would; and what can be done to it and its children.

Knows its command line and its processes; must not know why it is hurt.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from edgehost.control.client import Client
from edgehost.control.protocol import FunctionStatus
from edgehost.delivery.faults import VARIABLE
from edgehost.errors import EdgehostError
from edgehost.letter import Which

_ASK_S = 5.0
_REPLAY_S = 30.0
_ZYGOTE = "edgehost-zygote"

CONFIG = """\
[agent]
state = "{state}"
socket = "{socket}"
functions = [{functions}]
[http]
listen = "127.0.0.1:{http_port}"
[brokers.default]
url = "mqtt://127.0.0.1:{broker_port}"
client_id = "under-trial"
connect_timeout_s = 4
"""


class Subject:
    """One agent and its successors, in one folder, with one state."""

    def __init__(
        self, folder: Path, state: Path, functions: list[Path], broker_port: int, http_port: int, more: dict[str, str]
    ) -> None:
        """`more`: environment variables, for the clock it sees."""
        self.socket = folder / "agent.sock"
        self.log = folder / "agent.log"
        self.starts = 0
        self.armed = ""
        """The fault point at which it is to die, while it has not."""
        self._config = folder / "edgehost.toml"
        listed = ", ".join(f'"{path}"' for path in functions)
        self._config.write_text(
            CONFIG.format(state=state, socket=self.socket, functions=listed, http_port=http_port, broker_port=broker_port)
        )
        self._plain = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._environment = self._plain | more
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def status(self) -> int | None:
        """How it ended; None while it runs or was never started."""
        return self._process.poll() if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, fault: str = "") -> None:
        """Start it, unless it runs; with `fault` (NAME:COUNT) it dies there by itself. Returns at once."""
        if self.running:
            return
        self.starts += 1
        self.armed = fault
        environment = self._environment | ({VARIABLE: fault} if fault else {})
        with self.log.open("ab") as log:
            log.write(f"--- start {self.starts} {fault}\n".encode())
            log.flush()
            command = [sys.executable, "-m", "edgehost.agent", "--config", str(self._config), "--log-format", "text"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def true_clock(self) -> None:
        """From the next start on it sees the clock as it is: libfaketime breaks `time.sleep`, which an orderly end needs."""
        self._environment = self._plain

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self, patience_s: float) -> int | None:
        """As systemd would, and how it ended; None: it did not within `patience_s`, and was killed."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def stop(self, stopped: bool) -> None:
        """Have it stand still, or go on; its workers do as they like."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)

    def zygotes(self) -> list[psutil.Process]:
        """Its direct children that fork workers."""
        if self._process is None or not self.running:
            return []
        try:
            return [child for child in psutil.Process(self._process.pid).children() if _name(child) == _ZYGOTE]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """The processes that run functions."""
        found: list[psutil.Process] = []
        for zygote in self.zygotes():
            try:
                found += zygote.children()
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda process: int(process.pid))

    def functions(self) -> dict[str, FunctionStatus]:
        """How its functions are, by name; empty while it does not answer."""
        try:
            with Client.connect(self.socket, _ASK_S) as client:
                return {status.name: status for status in client.functions()}
        except EdgehostError:
            return {}

    def ready(self) -> bool:
        """Whether every function is ready and every trigger runs."""
        functions = self.functions().values()
        return bool(functions) and all(
            function.state == "ready" and all(trigger.state == "running" for trigger in function.triggers)
            for function in functions
        )

    def replay(self, function: str) -> int:
        """Have all dead letters of a function replayed; how many. Raises RuntimeError if it refuses, dies or is not there."""
        try:
            with Client.connect(self.socket, _REPLAY_S) as client:
                return client.replay(Which(function=function)) if client.letters(Which(function=function), 0).matching else 0
        except EdgehostError as error:
            raise RuntimeError(f"no replay: {error}") from error

    def last_lines(self, count: int) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-count:])


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""
