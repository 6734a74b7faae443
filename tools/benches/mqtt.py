"""`tools/bench mqtt`: MQTT in, a handler in a worker, MQTT out, through a real mosquitto and the whole agent.

100 bytes, closed loop, 1 and 100 in flight, QoS 0 and 1, each beside the broker alone: the same generator talking to itself.
Every figure is the median of ROUNDS runs, agent and broker in turn, because other work on the machine comes and goes.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tools.benches.report import Row

ROUNDS = 3
# (QoS, in flight, what is asked of the agent: events/s or the p50 in µs)
CASES = ((0, 100, 25_000.0), (0, 1, 300.0), (1, 100, 12_000.0), (1, 1, 400.0))

# max_inflight_messages: mosquitto's own 20 would be measured instead of the agent at 100 in flight.
_MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_inflight_messages 1000
"""
_MANIFEST = """
name = "echo{qos}"
handler = "main:handler"
[triggers.in]
kind = "mqtt"
topics = ["in{qos}"]
qos = {qos}
max_in_flight = 128
[outputs.out]
kind = "mqtt"
topic = "out{qos}"
qos = {qos}
"""
_HANDLER = "def handler(context, event):\n    return event.body\n"


def run(seconds: float) -> list[Row]:
    """Measure every case for about `seconds`."""
    with tempfile.TemporaryDirectory(prefix="edgehost-bench-") as name:
        folder = Path(name)
        with _mosquitto(folder) as port, _agent(folder, port) as agent:
            return [row for case in CASES for row in _case(*case, seconds=seconds, port=port, agent=agent)]


def _case(qos: int, in_flight: int, reach: float, *, seconds: float, port: int, agent: psutil.Process) -> list[Row]:
    rounds = [_round(qos, in_flight, seconds / ROUNDS, port, agent) for _ in range(ROUNDS)]

    def median(key: str) -> float:
        return statistics.median(found[key] for found in rounds)

    title = f"QoS {qos}, {in_flight} in flight"
    many = in_flight > 1
    return [
        Row(f"{title}: throughput", median("per_s"), "events/s", reach if many else None),
        Row(f"{title}: p50", median("p50_us"), "µs", None if many else reach, higher_is_better=False),
        Row(f"{title}: p99", median("p99_us"), "µs", higher_is_better=False),
        Row(f"{title}: agent CPU", median("cpu_us"), "µs/event", higher_is_better=False),
        Row(f"{title}: broker alone", median("alone_per_s"), "events/s"),
        Row(f"{title}: broker alone, p50", median("alone_p50_us"), "µs", higher_is_better=False),
        Row(f"{title}: of the broker alone", median("per_s") / median("alone_per_s"), "ratio"),
    ]


def _round(qos: int, in_flight: int, seconds: float, port: int, agent: psutil.Process) -> dict[str, float]:
    before = sum(agent.cpu_times()[:2])
    found = _load(port, f"in{qos}", f"out{qos}", qos, in_flight, seconds)
    found["cpu_us"] = (sum(agent.cpu_times()[:2]) - before) / found["total"] * 1e6
    alone = _load(port, f"alone{qos}", f"alone{qos}", qos, in_flight, seconds)
    return {**found, "alone_per_s": alone["per_s"], "alone_p50_us": alone["p50_us"]}


def _load(port: int, to: str, come_back: str, qos: int, in_flight: int, seconds: float) -> dict[str, float]:
    words = [str(word) for word in (port, to, come_back, qos, in_flight, seconds)]
    command = [sys.executable, "-m", "tools.benches.mqtt_load", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[2])
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


@contextmanager
def _mosquitto(folder: Path) -> Iterator[int]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("mosquitto is not here; install it: apt-get install mosquitto")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    config = folder / "mosquitto.conf"
    config.write_text(_MOSQUITTO.format(port=port))
    with _process([program, "-c", str(config)], folder / "mosquitto.log"):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port


@contextmanager
def _agent(folder: Path, port: int) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "edgehost.agent", "--broker", f"mqtt://127.0.0.1:{port}"]
    command += ["--socket", str(folder / "agent.sock")]
    for qos in (0, 1):
        function = folder / f"echo{qos}"
        function.mkdir()
        (function / "function.toml").write_text(_MANIFEST.format(qos=qos))
        (function / "main.py").write_text(_HANDLER)
        command += ["--function", str(function)]
    with _process([*command, "--log-level", "warning"], folder / "agent.log") as process:
        yield psutil.Process(process.pid)


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    # Measured as it is installed: with bytecode, whatever the shell says.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield process
    except BaseException:
        sys.stderr.write(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
