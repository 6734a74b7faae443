"""The command line in this process (`cli`) and as a real program (`program`), and an agent's socket with known functions."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgehost.cli.app import run
from edgehost.control.local import LocalServer
from edgehost.control.protocol import FunctionStatus, TriggerStatus
from edgehost.errors import ControlError
from edgehost.event import Event, Response, failure


@dataclass
class Result:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON value it must be."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """Standard error as the one JSON object it must be."""
        return json.loads(self.err)


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli("invoke", "echo")`: the command line in this process."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def program(tmp_path: Path) -> Cli:
    """`program("invoke", "--local", folder, stdin=b"...")`: the command line as a process of its own."""

    def call(*arguments: object, stdin: bytes = b"", **environment: str) -> Result:
        command = [sys.executable, "-m", "edgehost.cli.entry", *map(str, arguments)]
        environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), **environment}
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=100, env=environ, check=False)
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return call


class Host:
    """Functions for the command line to call: `echo`, `image`, `slow`, `fails`, `missing`, `torn`, `chatty`."""

    async def invoke(self, name: str, event: Event) -> Response:
        seen = {**event.headers, "X-Method": event.method, "X-Path": event.path}
        answers = {
            "echo": Response(200, event.content_type, seen, event.body),
            "image": Response(200, "image/png", {}, b"\x89PNG\xff"),
            "fails": failure("raised", "ValueError: no\n"),
            "missing": Response(404, "text/plain", {}, b"nothing here"),
            "torn": Response(200, "text/plain", {}, b"one ", chunks=_torn()),
            "chatty": Response(
                200, "text/plain", {"X-Nuclio-Logs": '[{"level":"info","message":"hm","time":1,"with":{"n":1}}]'}, b"x"
            ),
        }
        if name == "slow":
            await asyncio.get_running_loop().create_future()
        if name not in answers:
            raise ControlError(f"{name!r} is not a function here; there are: echo")
        return answers[name]

    def troubles(self) -> list[str]:
        return ["12 MiB of 7.2 GiB are free: durable events are refused"]

    def functions(self) -> list[FunctionStatus]:
        refused = TriggerStatus("in", "mqtt", "degraded", "the broker at mqtt://b refused us: bad password; see username")
        return [
            FunctionStatus("echo", "ready", workers_ready=2, workers_wanted=2, handled=1234, p50_ms=0.25, p99_ms=41.5),
            FunctionStatus(
                "broken",
                "crash_loop",
                workers_wanted=1,
                failed=3,
                dropped=2,
                triggers=[TriggerStatus("web", "http", "running"), refused],
                last_error="ImportError: no module\nnamed x",
                warnings=["spec.replicas is not used here"],
            ),
        ]


async def _torn() -> AsyncIterator[bytes]:
    yield b"two"
    raise ConnectionError("the worker died")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent that has the functions of Host. It runs in a thread: the command line blocks."""
    loop = asyncio.new_event_loop()
    server = LocalServer(tmp_path / "agent.sock", Host())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(20)
    yield server.address
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()
