"""`python -m tools.demonstration`: an embedded broker, an agent with three functions, devices that send, a count at the end.

Exit status: 0 when every event that went in came out, 1 when not, or when something could not be started; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from edgehost.control.protocol import FunctionStatus
from edgehost.embedded_broker import EmbeddedBroker
from edgehost.errors import EdgehostError
from tools.demonstration import screen, sound
from tools.demonstration.feeds import Feeds
from tools.demonstration.host import Host
from tools.demonstration.observer import Observer

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = ("live-readings", "anomaly", "speech")
SETTLE_S = 15.0


def main() -> int:
    """Set the stage, play, count."""
    given = _arguments()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="edgehost-demo-") as folder:
        try:
            return _play(console, given, sound.load(given.sounds), Path(folder))
        except (EdgehostError, RuntimeError, OSError, ValueError) as error:
            _complain(console, f"demo: {error}")
            return 1
        except KeyboardInterrupt:
            return 130


def _complain(console: Console, text: str) -> None:
    console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/demo", description="An agent with live functions and a model on this machine.")
    parser.add_argument("--seconds", type=float, default=25.0, help="how long the devices send [25]")
    parser.add_argument("--speed", type=float, default=1.0, help="how much faster than real time the recordings are played [1]")
    parser.add_argument("--sounds", type=Path, required=True, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.seconds <= 0 or given.speed <= 0:
        parser.error("--seconds and --speed take numbers above 0")
    return given


def _play(console: Console, given: argparse.Namespace, recordings: list[sound.Recording], folder: Path) -> int:
    if not recordings:
        raise ValueError(f"no .wav files in {given.sounds}")
    broker = EmbeddedBroker()
    broker.start()
    observer = Observer(broker.url)
    host = Host([ROOT / "examples" / name for name in FUNCTIONS], broker.url, folder / "agent.sock", folder / "agent.log")
    try:
        host.start()
        console.print(f"one agent, three functions ({', '.join(FUNCTIONS)}), one embedded broker", highlight=False)
        feeds = Feeds(observer, recordings, given.speed)
        feeds.start()
        screen.watch(console, observer, given.seconds)
        feeds.stop()
        problem = _settled(host, observer)
        screen.report(console, observer, feeds.spikes_sent, host.memory(), host.start_s)
        if problem:
            _complain(console, f"{problem}; the end of the agent's log:\n{host.last_lines(15)}")
    finally:
        status = host.stop()
        observer.close()
        broker.stop()
    if status:
        _complain(console, f"the agent ended with status {status}:\n{host.last_lines(15)}")
    return 1 if problem or status else 0


def _settled(host: Host, observer: Observer) -> str:
    """Wait until every event has come out. Gives what is missing after SETTLE_S, or what the agent counts otherwise."""
    until = time.monotonic() + SETTLE_S
    while problem := _uneven(host, observer):
        if time.monotonic() > until:
            return problem
        time.sleep(0.05)
    return ""


def _uneven(host: Host, observer: Observer) -> str:
    functions = host.functions()
    if missing := sorted(set(FUNCTIONS) - set(functions)):
        return f"the agent no longer tells of {', '.join(missing)}"
    observer.live.went_in = _taken(functions["live-readings"])
    for row in screen.lines(observer):
        status = functions[row.name]
        if status.failed or status.dropped:
            return f"{row.name}: {status.failed} events failed, {status.dropped} were dropped ({status.last_error})"
        if not row.tally.even or row.tally.went_in != row.tally.came_out or _taken(status) != row.tally.came_out:
            return (
                f"{row.name}: {row.tally.went_in} events went in, {row.tally.came_out} came out, the agent took {_taken(status)}"
            )
    return ""


def _taken(status: FunctionStatus) -> int:
    return status.handled + status.failed


if __name__ == "__main__":
    sys.exit(main())
