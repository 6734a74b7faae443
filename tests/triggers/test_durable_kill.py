"""A real agent is killed after it has told a client, a folder and a memory of its own that events are received: none is lost."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FILES = 20
MANIFEST = """
name = "note"
handler = "main:handler"
[triggers.http]
kind = "http"
durable = true
[triggers.inbox]
kind = "file"
path = "{folder}/inbox"
when_done = "delete"
settle = "30ms"
durable = true
[triggers.rows]
kind = "poll"
interval = "100ms"
cursor = "id"
durable = true
sql = {{ database = "{folder}/db", query = "SELECT id, text FROM t" }}
[sandbox]
write = ["{folder}"]
"""
MAIN = """
import os, pathlib, time
FOLDER = pathlib.Path("{folder}")

def handler(context, event):
    while not (FOLDER / "open").exists():
        time.sleep(0.01)
    body = event.body if isinstance(event.body, bytes) else event.body["text"].encode()
    with (FOLDER / "notes").open("ab") as notes:
        notes.write(body + b"\\n")
"""


@pytest.fixture
def start(tmp_path: Path, whole_again: None) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """`start()`: an agent with this function, and the state that the one before has left."""
    bundle = tmp_path / "note"
    bundle.mkdir()
    (tmp_path / "inbox").mkdir()
    (bundle / "function.toml").write_text(MANIFEST.format(folder=tmp_path))
    (bundle / "main.py").write_text(MAIN.format(folder=tmp_path))
    database = sqlite3.connect(tmp_path / "db")
    database.execute("CREATE TABLE t (id INTEGER, text TEXT)")
    database.executemany("INSERT INTO t VALUES (?, ?)", [(number, f"row {number}") for number in range(1, FILES + 1)])
    database.commit()
    database.close()
    started: list[subprocess.Popen[bytes]] = []

    def run() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "edgehost.agent", "--function", str(bundle), "--http", f"unix:{tmp_path}/http.sock"]
        environment = {"STATE_DIRECTORY": str(tmp_path / "state"), "PATH": "/usr/bin:/bin"}
        with (tmp_path / "log").open("ab") as log:
            started.append(subprocess.Popen([*command, "--socket", f"{tmp_path}/agent.sock"], stderr=log, env=environment))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, (tmp_path / "log").read_text()


async def test_nothing_that_was_told_is_lost(
    start: Callable[[], subprocess.Popen[bytes]], tmp_path: Path, site: Any, until: Any
) -> None:
    process = start()
    await until(lambda: "at /note" in (tmp_path / "log").read_text())
    site.address = f"unix:{tmp_path}/http.sock"
    for number in range(FILES):
        (tmp_path / "put").write_text(f"file {number}")
        (tmp_path / "put").rename(tmp_path / "inbox" / f"{number}")
        assert (await site.ask(target="/note", body=b"request %d" % number)).status == 202
    memory = tmp_path / "state" / "poll" / "note" / "rows.json"
    await until(lambda: not any((tmp_path / "inbox").iterdir()) and memory.exists())
    process.kill()
    process.wait()
    assert not (tmp_path / "notes").exists()
    (tmp_path / "open").write_text("")
    start()
    expected = {f"{kind} {number}" for kind in ("file", "request") for number in range(FILES)}
    expected |= {f"row {number}" for number in range(1, FILES + 1)}
    notes = tmp_path / "notes"
    await until(lambda: notes.exists() and len(notes.read_text().splitlines()) >= len(expected))
    assert set(notes.read_text().splitlines()) == expected
