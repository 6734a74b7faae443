"""`tools/bench mqtt`: MQTT in, a handler in a worker, MQTT out, through a real mosquitto and the whole agent.

100 bytes, closed loop, 1 and 100 in flight, QoS 0 and 1, each beside the broker alone: the same generator talking to itself.
Every figure is the median of ROUNDS runs, agent and broker in turn, because other work on the machine comes and goes.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from tools.benches.mosquitto import load, mosquitto
from tools.benches.report import Row
from tools.benches.running import Agent, Code, agent

ROUNDS = 3
# (QoS, in flight, what is asked of the agent: events/s or the p50 in µs)
CASES = ((0, 100, 25_000.0), (0, 1, 300.0), (1, 100, 12_000.0), (1, 1, 400.0))

_MANIFEST = """
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
_ECHOES = {f"echo{qos}": Code(_MANIFEST.format(qos=qos)) for qos in (0, 1)}


def run(seconds: float) -> list[Row]:
    """Measure every case for about `seconds`."""
    with tempfile.TemporaryDirectory(prefix="edgehost-bench-") as name:
        folder = Path(name)
        with mosquitto(folder) as port, agent(folder, _ECHOES, ["--broker", f"mqtt://127.0.0.1:{port}"]) as running:
            return [row for case in CASES for row in _case(*case, seconds=seconds, port=port, running=running)]


def _case(qos: int, in_flight: int, reach: float, *, seconds: float, port: int, running: Agent) -> list[Row]:
    rounds = [_round(qos, in_flight, seconds / ROUNDS, port, running) for _ in range(ROUNDS)]

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


def _round(qos: int, in_flight: int, seconds: float, port: int, running: Agent) -> dict[str, float]:
    before = running.cpu_s()
    found = load(port, f"in{qos}", f"out{qos}", qos, in_flight, seconds)
    found["cpu_us"] = (running.cpu_s() - before) / found["total"] * 1e6
    alone = load(port, f"alone{qos}", f"alone{qos}", qos, in_flight, seconds)
    return {**found, "alone_per_s": alone["per_s"], "alone_p50_us": alone["p50_us"]}
