"""A real mosquitto for a bench, and the closed-loop load of mqtt_load.py beside it. Measures nothing itself, knows no agent."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.benches.running import free_port, process

# max_inflight_messages: mosquitto's own 20 would be measured instead of the agent at 100 in flight.
_SETTINGS = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 1000
"""


@contextmanager
def mosquitto(folder: Path, more: str = "") -> Iterator[int]:
    """A broker that ends with the block; gives its port. `more` goes into its configuration."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("mosquitto is not here; install it: apt-get install mosquitto")
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(_SETTINGS.format(port=port) + more)
    with process([program, "-c", str(config)], folder / "mosquitto.log"):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port


def load(port: int, to: str, come_back: str, qos: int, in_flight: int, seconds: float) -> dict[str, float]:
    """Run mqtt_load.py for so long; its figures."""
    words = [str(word) for word in (port, to, come_back, qos, in_flight, seconds)]
    command = [sys.executable, "-m", "tools.benches.mqtt_load", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[2])
    figures: dict[str, float] = json.loads(done.stdout)
    return figures
