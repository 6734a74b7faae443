"""`tools/bench journal`: what promises cost: durable intake, bytes written, the direct way beside them, memory in a flood.

Everything lies in /var/tmp: /tmp is memory on many boards, where a sync costs nothing and a figure would say nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tools.benches import journal_floods, journal_intake, journal_paths
from tools.benches.report import Row


def run(seconds: float) -> list[Row]:
    """All figures, each for about `seconds`; the floods take as long as their messages do."""
    rows: list[Row] = []
    for part in (journal_intake, journal_paths, journal_floods):
        with tempfile.TemporaryDirectory(prefix="edgehost-bench-", dir="/var/tmp") as name:
            rows += part.run(Path(name), seconds)
    return rows
