"""The GPIO part of `tools/bench devices`: edges of a simulated line, through a whole agent into a handler that checks the order.

The agent simulates the line too, so its CPU time holds both halves: the hand that pulls and the ear that hears.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from edgehost.control.client import Client
from edgehost.control.protocol import GpioPulse, Invoke
from tools.benches.report import Row
from tools.benches.running import Agent, Code, agent

_REACH_PER_S = 20_000
_PACED_HZ = _REACH_PER_S * 0.625
"""Pulses, of two edges each: a quarter above the reach."""
_FLAT_OUT_HZ = 1_000_000.0
_MOST_EDGES = 100_000
"""More would not fit into the 16 MiB of events that may wait for a function."""
_SETTLE_S = 10.0
_MANIFEST = """
handler = "main:handler"
[triggers.line]
kind = "gpio"
lines = ["PULSES"]
max_waiting = 1000000
"""
_HANDLER = """
seen = {"edges": 0, "out_of_order": 0, "last": 0}

def handler(context, event):
    if event.trigger.kind == "control":
        return seen
    seqno = event.body["seqno"]
    seen["edges"] += 1
    seen["out_of_order"] += seqno != seen["last"] + 1
    seen["last"] = seqno
"""


def run(seconds: float) -> list[Row]:
    """Edges a second, edges lost or out of order, and the agent's CPU for each: at a pace above the reach, and flat out."""
    rows = []
    for title, frequency_hz, reach in (
        (f"simulated GPIO, {2 * _PACED_HZ:,.0f} edges/s offered", _PACED_HZ, _REACH_PER_S),
        ("simulated GPIO, flat out", _FLAT_OUT_HZ, None),
    ):
        with tempfile.TemporaryDirectory(prefix="edgehost-bench-") as name:
            folder = Path(name)
            with agent(folder, {"pulses": Code(_MANIFEST, _HANDLER)}, ["--gpio", "sim"]) as running:
                edges = min(2 * int(seconds * frequency_hz), _MOST_EDGES)
                rows += _measure(running, folder / "agent.sock", title, edges, frequency_hz, reach)
    return rows


def _measure(running: Agent, socket: Path, title: str, edges: int, frequency_hz: float, reach: float | None) -> list[Row]:
    cpu_s, began = running.cpu_s(), time.monotonic()
    with Client.connect(socket, timeout_s=120.0) as client:
        client.gpio(GpioPulse("PULSES", edges // 2, frequency_hz))
    while (handled := running.functions()["pulses"].handled) < edges and time.monotonic() - began < 120.0:
        time.sleep(0.01)
    took_s, cpu_s = time.monotonic() - began, running.cpu_s() - cpu_s
    with Client.connect(socket, timeout_s=_SETTLE_S) as client:
        seen = json.loads(b"".join(getattr(reply, "data", b"") for reply in client.invoke(Invoke("pulses"))))
    return [
        Row(f"{title}: handled", handled / took_s, "edges/s", reach),
        Row(f"{title}: lost", edges - seen["edges"], "edges", 0, higher_is_better=False),
        Row(f"{title}: out of order", seen["out_of_order"], "edges", 0, higher_is_better=False),
        Row(f"{title}: agent CPU, both halves", cpu_s / edges * 1e6, "µs/edge"),
    ]
