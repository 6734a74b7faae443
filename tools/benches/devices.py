"""`tools/bench devices`: what devices bring, through the whole agent: serial lines, pins, runaway functions, the service."""

from __future__ import annotations

from tools.benches import lab, runaway, serial_line, sim_edges
from tools.benches.report import Row


def run(seconds: float) -> list[Row]:
    """All of them; `seconds` bounds each timed run's length."""
    return [*serial_line.run(seconds), *sim_edges.run(seconds), *runaway.run(seconds), *lab.run()]
