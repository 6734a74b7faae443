"""`tools/bench engine`: the path of an event through queue, policy, credit and worker, with one worker and an echo handler.

Every rate is the median of several runs; the one-in-flight figure stands beside a bare ping-pong of two Python processes over one
socketpair in the same run, which is what the kernel and the interpreter alone cost.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edgehost.engine.function import Function
from edgehost.engine.nursery import Nursery, breed_of
from edgehost.engine.spec import worker_spec
from edgehost.event import Event, Origin, Response
from edgehost.manifest.model import Manifest, Queue
from tools.benches.report import Row

MIB = 1024 * 1024
RUNS = 5
_ECHO = """
def handler(context, event):
    return event.body

def length(context, event):
    return str(len(event.body))
"""


def run(seconds: float) -> list[Row]:
    """All figures of the engine; `seconds` bounds each timed run's length."""
    with tempfile.TemporaryDirectory(prefix="edgehost-bench-") as name:
        folder = Path(name)
        (folder / "main.py").write_text(_ECHO)
        rows = asyncio.run(_paths(folder, max(0.2, seconds / (4 * RUNS))))
        return rows + asyncio.run(_births(folder)) + _agent(folder, seconds)


async def _paths(folder: Path, run_s: float) -> list[Row]:
    rate = await _rate(folder, "handler", b"x" * 100, 64, run_s)
    trips, bare = await _round_trips(folder, run_s)
    large = await _rate(folder, "handler", b"x" * 100_000, 16, run_s)
    view = await _rate(folder, "length", b"x" * MIB, 4, run_s, hand_over="view")
    return [
        Row("100 B, 64 in flight", rate, "events/s", 150_000),
        Row("100 B, one in flight: p50", trips, "µs"),
        Row("bare ping-pong over a socketpair: p50", bare, "µs"),
        Row("ratio to the bare ping-pong", trips / bare, "x", 1.5, higher_is_better=False),
        Row("100 KB echo, 16 in flight", large, "events/s", 20_000),
        Row("1 MiB body as a view, its length answered", view, "events/s", 8_000),
    ]


class _NoServices:
    """The echo handler asks nothing of the agent."""

    def call(self, name: str, event: Event) -> asyncio.Future[Response]:
        raise AssertionError("the echo handler calls nobody")

    def publish(self, output: str, event: Event) -> asyncio.Future[None]:
        raise AssertionError("the echo handler publishes nothing")

    def stores(self, output: str) -> bool:
        raise AssertionError("the echo handler publishes nothing")


def _function(nursery: Nursery, folder: Path, handler: str, hand_over: Literal["bytes", "view"] = "bytes") -> Function:
    manifest = Manifest("echo", folder, folder / "function.toml", handler=f"main:{handler}", body=hand_over)
    return Function(worker_spec(manifest), 1, Queue(), manifest.start_timeout_s, nursery, breed_of(manifest), _NoServices())


async def _rate(
    folder: Path, handler: str, body: bytes, in_flight: int, run_s: float, hand_over: Literal["bytes", "view"] = "bytes"
) -> float:
    """Events per second in a closed loop, the median of RUNS runs."""
    nursery = Nursery(asyncio.get_running_loop())
    function = _function(nursery, folder, handler, hand_over)
    await function.start()
    event = Event(body, trigger=Origin("mqtt", "bench"), path="sensors/temperature/1")
    rates = [await _closed_loop(function, event, in_flight, run_s) for _ in range(RUNS)]
    await _close(function, nursery)
    return statistics.median(rates)


async def _closed_loop(function: Function, event: Event, in_flight: int, run_s: float) -> float:
    finished = asyncio.get_running_loop().create_future()
    end = time.perf_counter() + run_s
    done = open_calls = 0

    def answered(future: asyncio.Future[Response]) -> None:
        nonlocal done, open_calls
        assert not future.result().failed, future.result()
        done += 1
        if time.perf_counter() < end:
            function.submit(event).add_done_callback(answered)
        else:
            open_calls -= 1
            if not open_calls:
                finished.set_result(None)

    started = time.perf_counter()
    for _ in range(in_flight):
        open_calls += 1
        function.submit(event).add_done_callback(answered)
    await finished
    return done / (time.perf_counter() - started)


async def _round_trips(folder: Path, run_s: float) -> tuple[float, float]:
    """Median round trip of one event at a time, and of a bare ping-pong, in µs: measured in turns, so that both see the same
    noise.
    """
    nursery = Nursery(asyncio.get_running_loop())
    function = _function(nursery, folder, "handler")
    await function.start()
    event = Event(b"x" * 100, trigger=Origin("mqtt", "bench"), path="sensors/temperature/1")
    ours: list[float] = []
    bare: list[float] = []
    with _PingPong() as peer:
        for _ in range(RUNS):
            ours.append(await _median_trip(function, event, run_s))
            bare.append(peer.median_trip(run_s))
    await _close(function, nursery)
    return statistics.median(ours) * 1e6, statistics.median(bare) * 1e6


async def _median_trip(function: Function, event: Event, run_s: float) -> float:
    times: list[float] = []
    end = time.perf_counter() + run_s
    while (started := time.perf_counter()) < end:
        await function.submit(event)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


class _PingPong:
    """Two Python processes, one socketpair, blocking calls, 100 bytes each way: the floor of any such design."""

    def __enter__(self) -> _PingPong:
        self._sock, theirs = socket.socketpair()
        code = "import socket,sys\ns=socket.socket(fileno=int(sys.argv[1]))\nwhile (d:=s.recv(4096)): s.sendall(d)"
        self._peer = subprocess.Popen([sys.executable, "-c", code, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        return self

    def median_trip(self, run_s: float) -> float:
        """Seconds."""
        data, times = b"x" * 100, []
        end = time.perf_counter() + run_s
        while (started := time.perf_counter()) < end:
            self._sock.sendall(data)
            self._sock.recv(4096)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        self._peer.wait()


async def _births(folder: Path) -> list[Row]:
    """Fork to ready, and what a worker costs that has answered once; the zygote is there already."""
    nursery = Nursery(asyncio.get_running_loop())
    warm = _function(nursery, folder, "handler")
    await warm.start()
    times, sizes = [], []
    for _ in range(15):
        function = _function(nursery, folder, "handler")
        started = time.perf_counter()
        await function.start()
        times.append(time.perf_counter() - started)
        await function.submit(Event(b"x" * 100))
        sizes.append(_memory_kib(function.pool.workers[0].pid, "Private_Clean", "Private_Dirty"))
        await function.close()
    await _close(warm, nursery)
    return [
        Row("worker: fork to ready", statistics.median(times) * 1e3, "ms", 5, higher_is_better=False),
        Row("worker: private memory", statistics.median(sizes) / 1024, "MiB", 1.5, higher_is_better=False),
    ]


async def _close(function: Function, nursery: Nursery) -> None:
    await function.drain("finish", 5)
    await function.close()
    nursery.close()


def _memory_kib(pid: int, *fields: str) -> int:
    """The sum of some fields of /proc/PID/smaps_rollup, in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return sum(sizes[field] for field in fields)


_IDLE = """
name = "idle"
handler = "main:handler"
[triggers.readings]
kind = "mqtt"
topics = ["readings/#"]
[triggers.clock]
kind = "cron"
every = "1h"
"""
_HELLO = """
name = "hello"
handler = "main:handler"
"""


def _agent(folder: Path, seconds: float) -> list[Row]:
    """The whole agent as a process of its own, bytecode compiled: memory when idle, and start to first answer."""
    (folder / "function.toml").write_text(_IDLE)
    with _Agent(folder) as agent:
        agent.answer()
        time.sleep(min(5.0, seconds / 4))
        tree = agent.tree()
        alone = _memory_kib(agent.pid, "Pss") / 1024
        together = sum(_memory_kib(pid, "Pss") for pid in tree) / 1024
    (folder / "function.toml").write_text(_HELLO)
    starts = [_start_s(folder) for _ in range(RUNS)]
    return [
        Row("idle agent (MQTT + cron): PSS of the agent", alone, "MiB", 25, higher_is_better=False),
        Row(f"idle agent with its zygote and one worker ({len(tree)} processes): PSS", together, "MiB"),
        Row("agent start to first answer", statistics.median(starts), "s", 0.5, higher_is_better=False),
    ]


def _start_s(folder: Path) -> float:
    started = time.perf_counter()
    with _Agent(folder) as agent:
        agent.answer()
        return time.perf_counter() - started


class _Agent:
    """A real agent process on one function, with its control socket in the function's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = folder / "agent.sock"

    def __enter__(self) -> _Agent:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        command = [
            sys.executable,
            "-m",
            "edgehost.agent",
            "--function",
            str(self._folder),
            "--socket",
            str(self._socket),
            "--state",
            str(self._folder / "state"),
            "--log-level",
            "error",
        ]
        self._process = subprocess.Popen(command, env=environment)
        self.pid = self._process.pid
        return self

    def answer(self) -> None:
        """Ask until the function answers."""
        from edgehost.control.protocol import Answer, Invoke

        name = (self._folder / "function.toml").read_text().split('"')[1]
        _until(
            lambda: any(isinstance(reply, Answer) and reply.status == 200 for reply in _ask(self._socket, Invoke(name, b"hi")))
        )

    def tree(self) -> list[int]:
        """The agent and all its descendants."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                children.setdefault(parent, []).append(int(entry.name))
        found = [self.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)


def _ask(path: Path, request: object) -> list[object]:
    """The replies up to the first chunk of the answer; none if nobody listens yet."""
    from edgehost.control import protocol

    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return []
        sock.sendall(protocol.encode(request))  # type: ignore[arg-type]
        stream = sock.makefile("rb")
        header = stream.read(protocol.HEADER.size)
        return [protocol.decode_reply(stream.read(protocol.payload_size(header)))] if header else []


def _until(true: Callable[[], bool], within_s: float = 20.0) -> None:
    end = time.perf_counter() + within_s
    while not true():
        if time.perf_counter() > end:
            raise TimeoutError("the agent did not answer")
        time.sleep(0.002)
