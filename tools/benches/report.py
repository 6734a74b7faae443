"""How a bench tells its figures: a table for people, one JSON object for machines. Knows nothing of what was measured."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure. `reach` is what was asked of it (None: nothing), in the same unit as `value`."""

    name: str
    value: float
    unit: str
    reach: float | None = None
    higher_is_better: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the reach was met; None where nothing is asked."""
        if self.reach is None:
            return None
        return self.value >= self.reach if self.higher_is_better else self.value <= self.reach


def machine() -> dict[str, Any]:
    """What the figures were taken on: processor, cores, memory (bytes), kernel, Python, architecture."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "arch": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    # x86 says "model name", most Arm kernels only the board's "Model" or "Hardware".
    pairs = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    lines = {key.strip(): value.strip() for key, _, value in pairs}
    for key in ("model name", "Model", "Hardware"):
        if lines.get(key):
            return lines[key]
    return platform.processor() or "unknown"


def as_json(bench: str, rows: Sequence[Row]) -> str:
    """One line: `{"bench", "machine", "rows": [{"name", "value", "unit", "reach", "met"}]}`."""
    told = [{"name": r.name, "value": r.value, "unit": r.unit, "reach": r.reach, "met": r.met} for r in rows]
    return json.dumps({"bench": bench, "machine": machine(), "rows": told})


def as_table(bench: str, rows: Sequence[Row]) -> str:
    """The same for people: one aligned line a figure."""
    head = ("figure", "value", "unit", "reach", "")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    text = [f"{bench} on {_machine_line()}", ""]
    text += [_aligned(line, widths) for line in cells]
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    bound = "" if row.reach is None else f"{'>=' if row.higher_is_better else '<='} {number(row.reach)}"
    verdict = {None: "", True: "met", False: "MISSED"}[row.met]
    return row.name, number(row.value), row.unit, bound, verdict


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    name, value, unit, reach, verdict = (text.ljust(width) for text, width in zip(line, widths, strict=True))
    return f"  {name}  {value.strip().rjust(widths[1])} {unit}  {reach}  {verdict}".rstrip()


def number(value: float) -> str:
    """Three significant digits below 1,000, whole and with thousands separators above."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.6f}"


def _machine_line() -> str:
    about = machine()
    memory_gib = about["memory_bytes"] / 1024**3
    return (
        f"{about['cpu']}, {about['cores']} cores, {memory_gib:.0f} GiB, Linux {about['kernel']}, {about['arch']}, "
        f"Python {about['python']}"
    )
