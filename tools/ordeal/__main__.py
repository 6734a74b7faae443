"""The command behind `tools/chaos`. Exit status: 0 when every promise was kept, 1 when one was not, 2 when it could not run."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from edgehost.delivery.faults import POINTS
from edgehost.errors import EdgehostError
from tools.ordeal import report
from tools.ordeal.schedule import chosen, kinds
from tools.ordeal.trial import Trial
from tools.ordeal.verdict import Result


def main() -> int:
    """Set up, hurt, count, tell, clean up."""
    given = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="edgehost-chaos-"))
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f} {text}", file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = asyncio.run(_run(Trial(folder, given.seed, given.minutes, given.only, say)))
    except (RuntimeError, EdgehostError, OSError) as error:
        print(f"chaos: {error}\nwhat there is lies in {folder}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"chaos: interrupted; what there is lies in {folder}", file=sys.stderr)
        return 2
    status = _told(result, folder, given.json)
    if not status:
        shutil.rmtree(folder, ignore_errors=True)
    return status


async def _run(trial: Trial) -> Result:
    keep = True
    try:
        result = await trial.run()
        keep = bool(report.broken(result))
        return result
    finally:
        trial.close(keep)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/chaos", description="Hurt a running agent and count what it loses.")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long faults come (default 3)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed plans the same faults and messages (default 1)")
    parser.add_argument("--only", default="", metavar="FAULT", help=f"point, or one of {', '.join(kinds(POINTS))}")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    if given.minutes <= 0:
        parser.error("--minutes takes a number above 0")
    try:
        chosen(given.only, POINTS)
    except ValueError as error:
        parser.error(str(error))
    return given


def _told(result: Result, folder: Path, as_json: bool) -> int:
    broken = report.broken(result)
    print(report.as_json(result) if as_json else report.as_table(result))
    out = sys.stderr if as_json else sys.stdout
    if not broken:
        print("every promise was kept", file=out)
        return 0
    print(f"\n{len(broken)} broken:", file=out)
    for line in broken:
        print(f"  {line}", file=out)
    for culprit in dict.fromkeys(report.culprits(result)):
        print(f"\nhistory of {culprit}:", file=out)
        print("\n".join(report.history(folder / "history.log", culprit)), file=out)
    print(f"\nlogs, journal and history lie in {folder}", file=out)
    return 1


if __name__ == "__main__":
    sys.exit(main())
