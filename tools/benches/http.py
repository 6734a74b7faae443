"""`tools/bench http`: HTTP in, a handler in a worker, HTTP out, through the whole agent; 16 connections, 100 bytes, closed loop.

Beside it a bare uvicorn that echoes in its ASGI application on the same event loop and parser: what the server alone allows.
Every figure is the median of ROUNDS runs, agent and bare server in turn, because other work on the machine comes and goes.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tools.benches.http_load import Load, drive
from tools.benches.report import Row
from tools.benches.running import free_port

ROUNDS = 3
CONNECTIONS = 16
BODY = b"x" * 100
REACH_PER_S = 6000.0
_START_S = 20.0
_PROJECT = Path(__file__).resolve().parents[2]
_MANIFEST = 'name = "echo"\nhandler = "main:handler"\n[triggers.web]\nkind = "http"\n'
_HANDLER = "def handler(context, event):\n    return event.body\n"


def run(seconds: float) -> list[Row]:
    """Measure for about `seconds` each."""
    with tempfile.TemporaryDirectory(prefix="edgehost-bench-") as name, _agent(Path(name)) as agent, _bare() as bare:
        rounds = [(agent.round(seconds / ROUNDS), bare.round(seconds / ROUNDS)) for _ in range(ROUNDS)]
    title = f"{CONNECTIONS} connections, {len(BODY)} B echo"
    through = statistics.median(load.per_s for (load, _), _ in rounds)
    alone = statistics.median(load.per_s for _, (load, _) in rounds)
    rows = [Row(f"{title}: throughput", through, "requests/s", REACH_PER_S)]
    rows += _details(title, [one for one, _ in rounds], "agent")
    rows.append(Row("bare uvicorn: throughput", alone, "requests/s"))
    rows += _details("bare uvicorn", [two for _, two in rounds], "server")
    return [*rows, Row(f"{title}: of bare uvicorn", through / alone, "ratio")]


def _details(title: str, rounds: list[tuple[Load, float]], whose: str) -> list[Row]:
    quantiles = (("p50", 0.5), ("p99", 0.99))
    rows = [
        Row(f"{title}: {name}", statistics.median(load.quantile_ms(q) for load, _ in rounds), "ms", higher_is_better=False)
        for name, q in quantiles
    ]
    cpu = statistics.median(cpu_us for _, cpu_us in rounds)
    return [*rows, Row(f"{title}: {whose} CPU", cpu, "µs/request", higher_is_better=False)]


class _Server:
    """A started server process and where it echoes."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, path: str) -> None:
        self._process = psutil.Process(process.pid)
        self._port, self._path = port, path

    def round(self, seconds: float) -> tuple[Load, float]:
        """One timed run: what the load saw, and the server process's own CPU microseconds for each request."""
        before = self._process.cpu_times()
        load = drive(self._port, self._path, BODY, CONNECTIONS, seconds)
        after = self._process.cpu_times()
        spent_s = after.user + after.system - before.user - before.system
        return load, spent_s * 1e6 / len(load.latencies)


@contextmanager
def _agent(folder: Path) -> Iterator[_Server]:
    (folder / "function.toml").write_text(_MANIFEST)
    (folder / "main.py").write_text(_HANDLER)
    port = free_port()
    command = ["-m", "edgehost.agent", "--function", str(folder), "--http", f"127.0.0.1:{port}", "--log-level", "warning"]
    with _started([*command, "--socket", str(folder / "agent.sock"), "--state", str(folder / "state")], port) as process:
        yield _Server(process, port, "/echo")


@contextmanager
def _bare() -> Iterator[_Server]:
    port = free_port()
    with _started(["-m", "tools.benches.http", str(port)], port) as process:
        yield _Server(process, port, "/")


@contextmanager
def _started(arguments: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": str(_PROJECT)}
    process = subprocess.Popen([sys.executable, *arguments], env=environment, cwd=_PROJECT)
    try:
        _wait_for(port, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_START_S)
        except subprocess.TimeoutExpired:
            process.kill()  # a server that does not end by itself must not outlive the bench
            process.wait()
            raise


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{' '.join(map(str, process.args[1:4]))} did not listen on port {port}")  # type: ignore[index]


async def _echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    body = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    head = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


def _serve_bare(port: int) -> None:
    """The bare server, with the agent's own server settings."""
    from edgehost.config import Http
    from edgehost.http.address import bind
    from edgehost.http.server import EmbeddedServer

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = EmbeddedServer(_echo, Http())
        loop.add_signal_handler(15, server.leave)
        await server.serve(sockets=[bind(f"127.0.0.1:{port}")])

    asyncio.run(serve())


if __name__ == "__main__":
    _serve_bare(int(sys.argv[1]))
