"""The part of `tools/bench journal` that offers a million messages to an agent whose function stands still: what of its memory?

The handler waits for a file. The figure is how far the agent process's resident memory was at its highest (VmHWM) above what it
was before the flood. What holds it down is configuration: `max_waiting` of an mqtt trigger at QoS 0, `[journal] events_bytes` for
what is durable; beyond that QoS 1 stays with the broker (here without a limit of its own) and HTTP is answered 503.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from edgehost.control.protocol import FunctionStatus
from tools.benches import flood
from tools.benches.mosquitto import mosquitto
from tools.benches.report import Row
from tools.benches.running import Agent, Code, agent, free_port

MESSAGES = 1_000_000
FULL_S = 5.0
"""With fewer seconds a figure than this the messages are fewer in the same measure."""
REACH_MIB = 64.0
_CONNECTIONS = 64
MIB = 1024 * 1024
_SETTLE_S = 300.0
_IDLE_S = 1.0
_LOOK_S = 1.0
_QUIET_SHARE = 0.03
_DROPPED = re.compile(r"(\d+) QoS 0 messages dropped")
_HANDLER = """
import time
from pathlib import Path

GATE = Path(__file__).with_name("open")

def handler(context, event):
    while not GATE.exists():
        time.sleep(0.05)
"""
_MANIFEST = """
handler = "main:handler"
timeout = "1h"
drain = "inflight"
drain_timeout = "1s"
[triggers.in]
{trigger}
"""
# Whatever the agent does not take yet waits here, instead of being dropped before it was ever offered to it.
_NO_LIMITS = "max_queued_messages 0\nmemory_limit 0\n"


def run(folder: Path, seconds: float) -> list[Row]:
    """One agent for each flood."""
    return [row for each in (_quick, _durable, _http) for row in each(folder, messages(seconds))]


def messages(seconds: float) -> int:
    """How many are offered in each flood."""
    return min(MESSAGES, max(1000, round(MESSAGES * seconds / FULL_S)))


def _quick(folder: Path, count: int) -> list[Row]:
    """QoS 0: the oldest that waits goes for one more."""
    title = f"QoS 0 flood of {count:,}, function stopped"
    with _stopped_at_broker(folder, "quick", "qos = 0") as (port, running):
        before = _resident_mib(running)
        taken = flood.mqtt(port, "quick", 0, count)
        _until_quiet(running)
        growth = _growth(title, before, running)
        (folder / "quick" / "quick" / "open").touch()
        _until_quiet(running)
        came = seen(running.functions()["quick"])
    return [
        Row(f"{title}: the broker took", taken, "messages"),
        Row(f"{title}: the agent saw (handled in the end, or dropped and counted)", came, "messages"),
        growth,
    ]


def _durable(folder: Path, count: int) -> list[Row]:
    """QoS 1, durable: on disk up to the quota, the rest stays with the broker."""
    title = f"QoS 1 durable flood of {count:,}, function stopped"
    with _stopped_at_broker(folder, "kept", "qos = 1\ndurable = true") as (port, running):
        before = _resident_mib(running)
        taken = flood.mqtt(port, "kept", 1, count)
        _until_quiet(running)
        growth = _growth(title, before, running)
    return [
        Row(f"{title}: the broker took", taken, "messages"),
        Row(f"{title}: on disk when the agent had ended, the rest is the broker's", _on_disk(folder / "kept"), "events"),
        growth,
    ]


def _http(folder: Path, count: int) -> list[Row]:
    """HTTP, durable: 202 up to the quota, then 503 (or 429)."""
    title = f"HTTP durable flood of {count:,}, function stopped"
    port = free_port()
    with _stopped(folder, "web", 'kind = "http"\ndurable = true', ["--http", f"127.0.0.1:{port}"]) as running:
        before = _resident_mib(running)
        statuses = flood.http(port, "/web", count, _CONNECTIONS)
        growth = _growth(title, before, running)
    if odd := set(statuses) - {202, 429, 503}:
        raise RuntimeError(f"answered {odd}")
    return [
        Row(f"{title}: answered 202", statuses[202], "requests"),
        Row(f"{title}: answered 503 or 429", statuses[503] + statuses[429], "requests"),
        Row(f"{title}: on disk when the agent had ended", _on_disk(folder / "web"), "events"),
        growth,
    ]


@contextmanager
def _stopped_at_broker(folder: Path, name: str, settings: str) -> Iterator[tuple[int, Agent]]:
    """A broker, by its port, and an agent that subscribes to the topic `name`."""
    (folder / name).mkdir()
    trigger = f'kind = "mqtt"\ntopics = ["{name}"]\n{settings}'
    with (
        mosquitto(folder / name, _NO_LIMITS) as port,
        _stopped(folder, name, trigger, ["--broker", f"mqtt://127.0.0.1:{port}"]) as running,
    ):
        yield port, running


@contextmanager
def _stopped(folder: Path, name: str, trigger: str, options: Sequence[str]) -> Iterator[Agent]:
    """An agent whose one function takes an event and does not end."""
    place = folder / name
    place.mkdir(exist_ok=True)
    with agent(place, {name: Code(_MANIFEST.format(trigger=trigger), _HANDLER)}, options) as running:
        time.sleep(_IDLE_S)
        yield running


def _resident_mib(running: Agent) -> float:
    return float(running.process.memory_info().rss) / MIB


def _growth(title: str, before_mib: float, running: Agent) -> Row:
    """How far its memory has been above what it was."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    peak_mib = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return Row(
        f"{title}: the agent's memory at its highest, above {before_mib:.0f} MiB idle",
        peak_mib - before_mib,
        "MiB",
        REACH_MIB,
        higher_is_better=False,
    )


def _until_quiet(running: Agent) -> None:
    """Return when the agent has nothing to do any more: what the broker had for it has come."""
    deadline = time.monotonic() + _SETTLE_S
    busy_s = _LOOK_S
    while busy_s > _QUIET_SHARE * _LOOK_S and time.monotonic() < deadline:
        before = running.cpu_s()
        time.sleep(_LOOK_S)
        busy_s = running.cpu_s() - before


def seen(status: FunctionStatus) -> int:
    """How many messages came, by the agent's own account."""
    told = _DROPPED.search(status.triggers[0].message)
    return status.handled + (int(told[1]) if told else 0)


def _on_disk(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "state" / "journal.db")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM events").fetchone()
    return int(count)
