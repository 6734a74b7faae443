"""The command behind `tools/bench`: which benches to run, for how long, and told to whom. Measures nothing itself."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from typing import cast

from tools.benches.report import Row, as_json, as_table

BENCHES = ("engine", "mqtt", "http", "journal", "devices")


def main() -> None:
    """Run the benches named; exit code 0 when each has finished, whatever its figures."""
    asked = _arguments()
    for bench in BENCHES if asked.bench == "all" else (asked.bench,):
        run = cast(Callable[[float], list[Row]], importlib.import_module(f"tools.benches.{bench}").run)
        print(f"bench {bench}: about {asked.seconds:g} s a figure", file=sys.stderr)
        rows = run(asked.seconds)
        print(as_json(bench, rows) if asked.json else as_table(bench, rows) + "\n", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/bench", description="Measure edgehost on this machine.")
    parser.add_argument("bench", choices=(*BENCHES, "all"))
    parser.add_argument("--json", action="store_true", help="one JSON object a bench instead of a table")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each figure is measured (default 5)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
