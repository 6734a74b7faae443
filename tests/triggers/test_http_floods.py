"""More requests than a function takes, through a whole agent: the queue bounds what waits, whatever lies before it, and one too
many is told so at once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgehost.control.client import Client, NoAgentError
from edgehost.event import Response
from edgehost.http.asgi import RefusedError
from edgehost.http.bodies import Bodies

DEADLINE_S = 30
REQUESTS = 250
"""Fewer than the listener takes connections, more than queue and worker together take: a worker may be given 64 calls at once."""
MANIFEST = """
name = "{name}"
handler = "main:{handler}"
timeout = "60s"
[queue]
size = 3
policy = "{policy}"
[triggers.http]
kind = "http"
wait = "60s"
{more}
"""
MAIN = """
import pathlib, time

def one(context, event):
    while not pathlib.Path("open").exists():
        time.sleep(0.01)
    return event.body

def many(context, events):
    one(context, events[0])
    return [context.Response(body=event.body, event_id=event.id) for event in events]
"""
FUNCTIONS = {
    "plain": ("one", "block", ""),
    "reject": ("one", "reject", ""),
    "known": ("one", "block", 'dedupe = { by = "id" }'),
    "batch": ("many", "block", "batch = { size = 3, wait_s = 0.05 }"),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running agent; gives its folder, with `http.sock`."""
    folder = tmp_path_factory.mktemp("agent")
    command = [sys.executable, "-m", "edgehost.agent", "--http", f"unix:{folder}/http.sock"]
    command += ["--socket", str(folder / "agent.sock")]
    for name, (handler, policy, more) in FUNCTIONS.items():
        bundle = folder / name
        bundle.mkdir()
        (bundle / "function.toml").write_text(MANIFEST.format(name=name, handler=handler, policy=policy, more=more))
        (bundle / "main.py").write_text(MAIN)
        command += ["--function", str(bundle)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env={"STATE_DIRECTORY": str(folder), "PATH": "/usr/bin:/bin"})
    try:
        end = time.monotonic() + DEADLINE_S
        while not ready(folder):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        yield folder
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0, (folder / "log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def status(folder: Path) -> dict[str, Any]:
    with Client.connect(folder / "agent.sock", DEADLINE_S) as client:
        return {one.name: one for one in client.functions()}


def ready(folder: Path) -> bool:
    try:
        return all(one.state == "ready" and one.triggers for one in status(folder).values())
    except NoAgentError:
        return False


@pytest.fixture
def web(running: Path, site: Any) -> Any:
    """The HTTP client of `site`, pointed at the agent."""
    site.address = f"unix:{running}/http.sock"
    return site


@pytest.mark.parametrize("name", FUNCTIONS)
async def test_one_too_many_is_told_so_and_the_others_are_answered(name: str, web: Any, running: Path, until: Any) -> None:
    bodies = [b"%d" % number for number in range(REQUESTS)]
    asked = [
        asyncio.ensure_future(web.ask(target=f"/{name}", body=body, headers=f"Idempotency-Key: {body.decode()}\r\n"))
        for body in bodies
    ]
    refused: list[Any] = []

    def settled() -> bool:
        refused[:] = [one.result() for one in asked if one.done()]
        told = status(running)[name]
        return told.in_flight + told.queued > 0 and len(refused) >= 20

    await until(settled)
    assert {(reply.status, reply.header("retry-after")) for reply in refused} == {(429, "1")}
    assert b"the queue of" in refused[0].body
    assert status(running)[name].queued <= 3
    (running / name / "open").write_text("")
    replies = await asyncio.wait_for(asyncio.gather(*asked), DEADLINE_S)
    counts = Counter(reply.status for reply in replies)
    assert set(counts) == {200, 429} and counts[429] >= len(refused)
    assert all(reply.body == body for reply, body in zip(replies, bodies, strict=True) if reply.status == 200)


async def test_a_client_that_leaves_makes_room_in_the_queue(web: Any, running: Path, until: Any) -> None:
    (running / "plain" / "open").unlink(missing_ok=True)
    clients = [await web.connect() for _ in range(REQUESTS)]
    for client in clients:
        client.send(web.request(target="/plain", body=b"x"))
    await until(lambda: status(running)["plain"].queued == 3)
    for client in clients:
        client.close()
    await until(lambda: status(running)["plain"].queued == 0)
    (running / "plain" / "open").write_text("")
    await until(lambda: status(running)["plain"].in_flight == 0)


def test_bodies_are_bounded_together_and_one_alone_by_its_own_limit() -> None:
    bodies = Bodies(100)
    one, other = bodies.part(), bodies.part()
    one.add(90)
    one.add(90)
    with pytest.raises(RefusedError) as caught:
        other.add(1)
    assert (caught.value.status, caught.value.headers) == (429, [(b"retry-after", b"1")])
    one.let_go()
    other.add(100)
    with pytest.raises(RefusedError):
        one.add(1)
    other.let_go()
    assert bodies.held_bytes == 0


async def test_bodies_of_requests_that_wait_are_held_and_let_go(site: Any, until: Any) -> None:
    gate = asyncio.Event()

    async def answer(event: Any) -> Any:
        await gate.wait()
        return Response(body=b"ok")

    host = await site.serve(answer=answer)
    bodies = host.agent.parts["http"].bodies
    bodies._most_bytes = 150_000
    asked = [asyncio.ensure_future(site.ask(body=bytes(70_000))) for _ in range(2)]
    await until(lambda: bodies.held_bytes == 140_000)
    reply = await site.ask(body=bytes(20_000))
    assert (reply.status, reply.header("retry-after")) == (429, "1")
    assert bodies.held_bytes == 140_000
    gate.set()
    assert [reply.status for reply in await asyncio.gather(*asked)] == [200, 200]
    await until(lambda: bodies.held_bytes == 0)
