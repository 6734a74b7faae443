"""One mosquitto that keeps its state on disk, to be killed and started again at the same port. Knows nothing of the agent."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

_END_S = 10.0
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")

SETTINGS = """\
allow_anonymous true
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
set_tcp_nodelay true
log_type error
log_type warning
log_type notice
listener {port} 127.0.0.1
"""


class Broker:
    """`start`, `kill` and so on may be called in any order; each does what is left to do."""

    def __init__(self, folder: Path) -> None:
        """Raises RuntimeError where there is no mosquitto."""
        command = shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(_FOLDERS))
        if command is None:
            raise RuntimeError("mosquitto is not installed (apt-get install mosquitto)")
        folder.mkdir()
        self.port = free_port()
        self.log = folder / "mosquitto.log"
        # As root mosquitto gives up its rights and could not write in this folder then.
        user = "user root\n" if os.geteuid() == 0 else ""
        conf = folder / "mosquitto.conf"
        conf.write_text(user + SETTINGS.format(folder=folder, port=self.port))
        self._command = [command, "-c", str(conf)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs; returns at once."""
        if not self.running:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """As a power cut would: nothing is saved any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> None:
        """As systemd would: it saves what it has."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def stop(self, stopped: bool) -> None:
        """Have it stand still, or go on."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)


def free_port() -> int:
    """A TCP port that nobody listens at now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
