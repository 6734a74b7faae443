"""The limits part of `tools/bench devices`: a function that eats memory, forks, fills its disk or spins, beside one that works.

The good function is called at a steady pace, alone and then while the bad one runs away again and again; each time it must be
stopped at its limit, with its reason told. What is asked is that nobody else notices: the ratio of the two p99 is the figure.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edgehost.control.client import Client
from edgehost.control.protocol import Invoke
from edgehost.errors import EdgehostError
from tools.benches.report import Row
from tools.benches.running import Agent, Code, agent

_PACE_S = 0.005
_RUNAWAYS = {
    "memory": ("eats memory", "memory = '64MiB'", "used more than limits.memory"),
    "forks": ("forks 1,000 processes", "processes = 20", "more processes than limits.processes"),
    "fills": ("fills its temporary folder", "temp = '4MiB'", "used more than limits.temp"),
    "spins": ("spins", "cpu = 0.5\ncpu_s = 1\nniceness = 10", "limits.cpu_s is spent"),
}
"""What each does, its limits, and what must be told of its end."""
_BAD = """
import os, tempfile, time

def memory():
    while True:
        if os.fork() == 0:
            block = bytearray(24 << 20)
            time.sleep(1000)
        time.sleep(0.02)

def forks():
    for _ in range(1000):
        if os.fork() == 0:
            time.sleep(1000)
    time.sleep(1000)

def fills():
    for number in range(1_000_000):
        with open(os.path.join(tempfile.gettempdir(), str(number)), "wb") as file:
            file.write(bytes(65536))

def spins():
    while True:
        pass

def handler(context, event):
    globals()[context.function_name]()
"""


def run(seconds: float) -> list[Row]:
    """For each runaway: how long until it is stopped, and the good function's p99 against its p99 alone."""
    functions = {name: Code(f'handler = "main:handler"\n[limits]\n{told[1]}\n', _BAD) for name, told in _RUNAWAYS.items()}
    with tempfile.TemporaryDirectory(prefix="edgehost-bench-") as name:
        folder = Path(name)
        with agent(folder, {**functions, "good": Code('handler = "main:handler"\n')}) as running:
            rows = [row for bad in _RUNAWAYS for row in _beside(running, folder / "agent.sock", bad, seconds)]
    return rows


def _beside(running: Agent, socket: Path, bad: str, seconds: float) -> list[Row]:
    what, _, reason = _RUNAWAYS[bad]
    alone_s = _p99_s(socket, seconds)
    stops: list[float] = []
    enough = threading.Event()
    thread = threading.Thread(target=_run_away, args=(socket, bad, reason, stops.append, enough))
    thread.start()
    beside_s = _p99_s(socket, seconds)
    enough.set()
    thread.join()
    if not stops:
        raise SystemExit(f"{bad}: was not stopped for {reason!r}; {running.functions()[bad]}")
    title = f"a function that {what}"
    return [
        # Later calls also wait for a worker: one that ends again and again is started ever later.
        Row(f"{title}: stopped after, first time", stops[0], "s"),
        Row(f"{title}: p99 of the other, alone", alone_s * 1e3, "ms"),
        Row(f"{title}: p99 of the other, beside it", beside_s * 1e3, "ms"),
        Row(f"{title}: ratio", beside_s / alone_s, "x", 2.0, higher_is_better=False),
    ]


def _run_away(socket: Path, bad: str, reason: str, stopped: Callable[[float], None], enough: threading.Event) -> None:
    """Call the bad function until it is `enough`, at least once; tell how long each call took to be stopped for the reason."""
    while True:
        began = time.monotonic()
        answer = b""
        with suppress(EdgehostError):
            answer = _call(socket, bad)
        if reason.encode() in answer:
            stopped(time.monotonic() - began)
        if enough.is_set():
            return


def _call(socket: Path, name: str) -> bytes:
    with Client.connect(socket, timeout_s=60.0) as client:
        return b"".join(getattr(reply, "data", b"") for reply in client.invoke(Invoke(name)))


def _p99_s(socket: Path, seconds: float) -> float:
    """Of calls of the good function through the agent's socket, one every few milliseconds."""
    times = []
    with Client.connect(socket, timeout_s=60.0) as client:
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            for _ in client.invoke(Invoke("good", b"x" * 100)):
                pass
            times.append(time.monotonic() - began)
            time.sleep(max(0.0, _PACE_S - times[-1]))
    return sorted(times)[int(len(times) * 0.99)]
