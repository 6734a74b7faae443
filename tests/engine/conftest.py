"""A real zygote and real workers around one Function, without an agent: what the tests of the engine run against.

`engine.function(code, ...)` gives a started Function. At the end of a test every function must be whole again (all workers ready,
nothing queued, in flight or lent), no process or descriptor may be left, and the loop must not have caught an exception.
"""

from __future__ import annotations

import asyncio
import gc
import os
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgehost.engine.function import Function
from edgehost.engine.nursery import Nursery, breed_of
from edgehost.engine.spec import worker_spec
from edgehost.event import Event, Response, failure
from edgehost.manifest.model import Manifest, Sandbox

PATIENCE_S = float(os.environ.get("EDGEHOST_TEST_PATIENCE_S", "30"))

NOTE_RUN = """
import os

def ran(event):
    runs = os.open("runs", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(runs, (event.id + "\\n").encode())
    os.close(runs)
"""
"""In front of a handler: `ran(event)` counts an event as begun in a file that survives its worker."""


RUNS_MAY_BE_NOTED = Sandbox(write=(".",))


class Services:
    """What the engine asks of an agent: calls go to the test's other functions, publications into `published`."""

    def __init__(self) -> None:
        self.functions: dict[str, Function] = {}
        self.published: list[tuple[str, Event]] = []
        self.publish_answer: Callable[[], asyncio.Future[None]] | None = None

    def call(self, name: str, event: Event) -> asyncio.Future[Response]:
        if name in self.functions:
            return self.functions[name].submit(event)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        future.set_result(failure("not_ready", f"{name!r} is not a function here"))
        return future

    def publish(self, output: str, event: Event) -> asyncio.Future[None]:
        self.published.append((output, event))
        if self.publish_answer is not None:
            return self.publish_answer()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


class Engine:
    """The functions of one test, and what a test asks about them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nursery = Nursery(asyncio.get_running_loop())
        self.services = Services()
        self.functions: list[Function] = []

    def build(self, code: str, name: str = "f", **manifest: Any) -> Function:
        """A Function that is not started; `code` is its main.py."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "main.py").write_text(NOTE_RUN + textwrap.dedent(code))
        own: dict[str, Any] = {"name": name, "folder": folder, "source": folder / "function.toml", "handler": "main:handler"}
        wanted = Manifest(**{**own, "sandbox": RUNS_MAY_BE_NOTED, **manifest})
        function = Function(
            worker_spec(wanted),
            wanted.workers,
            wanted.queue,
            wanted.start_timeout_s,
            self.nursery,
            breed_of(wanted),
            self.services,
        )
        self.functions.append(function)
        self.services.functions[name] = function
        return function

    async def function(self, code: str, name: str = "f", **manifest: Any) -> Function:
        """A started Function."""
        function = self.build(code, name, **manifest)
        await function.start()
        return function

    def runs(self, name: str = "f") -> Counter[str]:
        """How often the handler of `name` began each event, by id (handlers note it with `ran(event)`)."""
        file = self.folder / name / "runs"
        return Counter(file.read_text().split()) if file.exists() else Counter()

    async def until(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        """The first true value of `condition`."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"waited {PATIENCE_S:g} s for {what}")
            await asyncio.sleep(0.005)
        return value

    async def whole(self, function: Function) -> None:
        """Wait until every worker is ready and idle, with nothing lent."""
        workers = function.pool.workers
        await self.until(lambda: not function.queued and not function.in_flight, f"{function.name} to have no event")
        await self.until(lambda: function.pool.state == "ready", f"{function.name} to be ready, not {function.pool.state}")
        assert [len(worker.channel._extents) for worker in workers] == [0] * len(workers)
        assert not any(worker.held for worker in workers)

    async def close(self) -> None:
        closed = [function for function in self.functions if function._state == "closed"]
        try:
            for function in self.functions:
                if function not in closed:
                    await self.whole(function)
        finally:
            await asyncio.gather(*(function.close() for function in self.functions if function not in closed))
            self.nursery.close()


@pytest.fixture
async def quiet_loop() -> AsyncIterator[None]:
    """Fails the test if the loop had to catch an exception ("Exception in callback", "Task exception was never retrieved")."""
    caught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: caught.append(context))
    yield
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)
    assert not caught, [(context["message"], context.get("exception")) for context in caught]


@pytest.fixture
async def engine(whole_again: None, quiet_loop: None, tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path)
    try:
        yield engine
    finally:
        await engine.close()


@pytest.fixture
def dig() -> Callable[[Path, int], None]:
    """`dig(top, depth)`: so many folders in folders, soon longer than a path may be (PATH_MAX), and a file in the last."""

    def down(top: Path, depth: int) -> None:
        here = os.open(top, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("x" * 200, dir_fd=here)
            below = os.open("x" * 200, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        os.close(here)

    return down


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[Any]]]:
    """`lines()`: the records the functions have logged so far, from debug up."""
    caplog.set_level("DEBUG", logger="edgehost")
    return lambda: [record for record in caplog.records if record.name == "edgehost.function"]  # type: ignore[return-value]


@pytest.fixture
def answer() -> Callable[[asyncio.Future[Any]], Any]:
    """`await answer(future)`: what it resolves to, with a limit no working machine reaches."""

    async def wait(future: asyncio.Future[Any]) -> Any:
        return await asyncio.wait_for(asyncio.shield(future), PATIENCE_S)

    return wait
