"""HTTP requests and timers through a whole agent in a process of its own: forked workers, real sockets, an orderly end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 30
MANIFEST = """
name = "web"
handler = "main:handler"
timeout = "2s"
workers = 2
[triggers.http]
kind = "http"
body_limit = "1KiB"
[triggers.tick]
kind = "cron"
every = "100ms"
body = "tock"
[outputs.note]
kind = "log"
[sandbox]
write = ["."]
"""
MAIN = """
import pathlib, time

def handler(context, event):
    if event.trigger.kind == "cron":
        return event.body + b" " + event.id.encode()
    if event.path == "/stream":
        return stream()
    if event.path == "/slow":
        time.sleep(60)
    if event.path == "/boom":
        raise ValueError("boom")
    if event.path == "/file":
        return context.Response(headers={"X-Nuclio-Filestream-Path": "main.py"}, content_type="text/x-python")
    context.logger.info_with("asked", path=event.path)
    return {"path": event.path, "fields": event.fields, "method": event.method, "size": len(event.body)}

def stream():
    try:
        for number in range(100_000):
            yield f"part {number};"
            time.sleep(0.01)
    finally:
        pathlib.Path("closed").write_text("yes")
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running agent; gives its folder, with `http.sock` and `log`."""
    folder = tmp_path_factory.mktemp("agent")
    bundle = folder / "web"
    bundle.mkdir()
    (bundle / "function.toml").write_text(MANIFEST)
    (bundle / "main.py").write_text(MAIN)
    command = [sys.executable, "-m", "edgehost.agent", "--function", str(bundle), "--http", f"unix:{folder}/http.sock"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--socket", str(folder / "agent.sock"), "--log-format", "json"], stderr=log)
    try:
        end = time.monotonic() + DEADLINE_S
        while not any("is ready" in line["message"] for line in lines(folder)):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.02)
        yield folder
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0, (folder / "log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def lines(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of the agent's log."""
    return [json.loads(line) for line in (folder / "log").read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def web(agent: Path, site: Any) -> Any:
    """The HTTP client of `site`, pointed at the agent."""
    site.address = f"unix:{agent}/http.sock"
    return site


@pytest.mark.parametrize("prefix", ["/web", ""])
async def test_the_function_answers_at_its_name_and_alone_at_the_root(web: Any, prefix: str) -> None:
    reply = await web.ask("PUT", f"{prefix}/a/b?x=1", b"12345")
    assert (reply.status, reply.header("content-type")) == (200, "application/json")
    assert json.loads(reply.body) == {"path": "/a/b", "fields": {"x": "1"}, "method": "PUT", "size": 5}


async def test_a_call_gets_its_own_log_back_when_it_asks(web: Any) -> None:
    reply = await web.ask(target="/web/x", headers="X-Nuclio-Log-Level: info\r\n")
    [record] = json.loads(reply.header("x-nuclio-logs"))
    assert (record["message"], record["with"]) == ("asked", {"path": "/x"})


@pytest.mark.parametrize(("target", "size", "status"), [("/web/boom", 0, 500), ("/web/slow", 0, 408), ("/web", 2000, 413)])
async def test_failures_have_the_status_of_the_contract(web: Any, target: str, size: int, status: int) -> None:
    assert (await web.ask(target=target, body=bytes(size))).status == status
    assert (await web.ask()).status == 200


async def test_a_file_of_the_bundle_is_sent(web: Any) -> None:
    reply = await web.ask("GET", "/web/file")
    assert (reply.status, reply.body.decode(), reply.header("content-type")) == (200, MAIN, "text/x-python")


async def test_a_generators_answer_streams_and_ends_with_its_client(web: Any, agent: Path, until: Any) -> None:
    closed = agent / "web" / "closed"
    closed.unlink(missing_ok=True)
    client = await web.connect()
    client.send(web.request("GET", "/web/stream"))
    await client.head()
    assert await client.chunk() == b"part 0;"
    client.close()
    await until(closed.exists)


async def test_timer_events_reach_the_function_and_its_output(agent: Path, until: Any) -> None:
    def tocks() -> list[str]:
        return [line["message"] for line in lines(agent) if line.get("trigger") == "note"]

    await until(lambda: len(tocks()) >= 3)
    ids = [line.split()[1] for line in tocks()]
    assert len(set(ids)) == len(ids)
    assert all(line.startswith("tock tick-20") for line in tocks())
