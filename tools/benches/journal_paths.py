"""The part of `tools/bench journal` that is MQTT in, a handler, MQTT out, through a real mosquitto and whole agents.

The direct way (nothing durable) has to be as quick with the journal as without: two agents, one as by default, one without
(`store = { enabled = false }`, `dead_letter = false`), are loaded in turn, and the figure is the median of the ratios of
neighbours. Then the durable way.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.benches.mosquitto import load, mosquitto
from tools.benches.report import Row
from tools.benches.running import Agent, Code, agent

PAIRS = 8
IN_FLIGHT = 100
_LEAST_S = 0.3
"""Of a run: in a shorter one perhaps nothing comes back."""
_MANIFEST = """
handler = "main:handler"
[triggers.in]
kind = "mqtt"
topics = ["{name}-in"]
qos = {qos}
max_in_flight = 128
{trigger}
[outputs.out]
kind = "mqtt"
topic = "{name}-out"
qos = {qos}
{output}
"""
_WITHOUT = "store = { enabled = false }\n[retry]\ndead_letter = false"


def run(folder: Path, seconds: float) -> list[Row]:
    """With and without the journal at QoS 0 and 1, then durable."""
    with mosquitto(folder) as port:
        with _agent(folder, port, "with") as on, _agent(folder, port, "without", output=_WITHOUT) as off:
            rows = [row for qos in (0, 1) for row in _compared(port, qos, seconds, on, off)]
        with _agent(folder, port, "durable", trigger="durable = true") as running:
            found = _found(running, port, "durable1", 1, seconds)
    title = f"durable, QoS 1 in, handler, QoS 1 out stored, {IN_FLIGHT} in flight"
    return [
        *rows,
        Row(f"{title}: throughput", found["per_s"], "events/s"),
        Row(f"{title}: p50", found["p50_us"] / 1e3, "ms", higher_is_better=False),
        Row(f"{title}: p99", found["p99_us"] / 1e3, "ms", higher_is_better=False),
        Row(f"{title}: agent CPU", found["cpu_us"], "µs/event", higher_is_better=False),
    ]


@contextmanager
def _agent(folder: Path, port: int, name: str, trigger: str = "", output: str = "") -> Iterator[Agent]:
    """One with an echo at each QoS, `<name>0` and `<name>1`."""
    place = folder / name
    place.mkdir()
    config = place / "edgehost.toml"
    # A client id of its own: of two agents with the same one a broker lets only one stay.
    config.write_text(f'[brokers.default]\nurl = "mqtt://127.0.0.1:{port}"\nclient_id = "{name}"\n')
    codes = {
        f"{name}{qos}": Code(_MANIFEST.format(name=f"{name}{qos}", qos=qos, trigger=trigger, output=output)) for qos in (0, 1)
    }
    with agent(place, codes, ["--config", str(config)]) as running:
        yield running


def _compared(port: int, qos: int, seconds: float, on: Agent, off: Agent) -> list[Row]:
    pairs = []
    for number in range(PAIRS):
        turns = [(on, "with"), (off, "without")]
        # The second of two neighbours must not always be the same one.
        pair = {
            name: _found(running, port, f"{name}{qos}", qos, seconds / PAIRS)
            for running, name in (turns if number % 2 else reversed(turns))
        }
        pairs.append((pair["with"], pair["without"]))

    def ratio(key: str) -> float:
        return statistics.median(ours[key] / theirs[key] for ours, theirs in pairs)

    title = f"nothing durable, QoS {qos}, {IN_FLIGHT} in flight"
    return [
        Row(f"{title}, with the journal: throughput", statistics.median(ours["per_s"] for ours, _ in pairs), "events/s"),
        Row(f"{title}, without: throughput", statistics.median(theirs["per_s"] for _, theirs in pairs), "events/s"),
        Row(f"{title}: throughput with it to without", ratio("per_s"), "ratio", 0.95),
        Row(f"{title}: CPU of the agent with it to without", ratio("cpu_us"), "ratio", higher_is_better=False),
    ]


def _found(running: Agent, port: int, name: str, qos: int, seconds: float) -> dict[str, float]:
    before = running.cpu_s()
    found = load(port, f"{name}-in", f"{name}-out", qos, IN_FLIGHT, max(_LEAST_S, seconds))
    found["cpu_us"] = (running.cpu_s() - before) / found["total"] * 1e6
    return found
