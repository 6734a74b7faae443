"""The polling sources through a whole agent: real servers, a real database, restarts, and nothing left behind."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Agent, AgentStarter, BundleMaker

ROOT = Path(__file__).parents[2]

KEEPS = """
import json, pathlib

def handler(context, event):
    with pathlib.Path(__file__).with_name("got").open("ab") as file:
        file.write(json.dumps(event.body).encode() + b"\\n")
"""
MAY_WRITE = "\n[sandbox]\nenabled = false\n"


def got(folder: Path) -> list[dict[str, object]]:
    """What the function was given so far."""
    path = folder / "got"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def trigger(agent: Agent, name: str) -> tuple[str, str]:
    (status,) = agent.functions()[name].triggers
    return status.state, status.message


@pytest.fixture
def web(tmp_path: Path, whole_again: None) -> Iterator[str]:
    """A web server for tmp_path/web, as `python -m http.server` is one."""
    (tmp_path / "web").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *what: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_restarted_agent_goes_on_where_it_was(agent: AgentStarter, bundle: BundleMaker, web: str, tmp_path: Path) -> None:
    page = tmp_path / "web" / "rows.json"
    page.write_text('[{"id": 1}, {"id": 2}]')
    manifest = f'[triggers.rows]\nkind = "poll"\ninterval = "50ms"\nkey = "id"\nhttp = {{ url = "{web}/rows.json" }}\n'
    folder = bundle("rows", KEEPS, manifest + MAY_WRITE)
    config = f'[agent]\nstate = "{tmp_path / "state"}"\n'
    first = agent(folder, config=config)
    first.wait(lambda: len(got(folder)) == 2, "two records")
    first.wait((tmp_path / "state/poll/rows/rows.json").exists, "the memory to be saved")
    first.stop(signal.SIGKILL)
    page.write_text('[{"id": 1}, {"id": 3}]')
    second = agent(folder, config=config)
    second.wait(lambda: len(got(folder)) == 3, "the record that is new")
    page.write_text("no JSON")
    second.wait(lambda: "is not the json expected" in trigger(second, "rows")[1], "the bad page to be told")
    page.write_text('[{"id": 4}]')
    second.wait(lambda: trigger(second, "rows") == ("running", "") and len(got(folder)) == 4, "the good page to be read")
    assert [row["id"] for row in got(folder)] == [1, 2, 3, 4]


def test_rows_written_while_the_agent_runs_are_handled_once(agent: AgentStarter, bundle: BundleMaker, tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        query = "SELECT id FROM orders WHERE id > :cursor ORDER BY id"
        manifest = '[triggers.orders]\nkind = "poll"\ninterval = "20ms"\ncursor = "id"\n'
        folder = bundle("orders", KEEPS, f'{manifest}sql = {{ database = "{path}", query = "{query}" }}\n{MAY_WRITE}')
        one = agent(folder, config=f'[agent]\nstate = "{tmp_path / "state"}"\n')
        for number in range(1, 51):
            database.execute("INSERT INTO orders VALUES (?)", [number])
        one.wait(lambda: len(got(folder)) >= 50, "fifty rows")
    assert one.stop() == 0
    assert [row["id"] for row in got(folder)] == list(range(1, 51))


@pytest.fixture
def meter(free_port: Callable[[], int], whole_again: None) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """`meter()`: the make-believe meter of examples/meter, always at one port."""
    port, running = free_port(), []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "examples/meter/meter.py"), str(port)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout is not None
        assert running[-1].stdout.readline() == f"a meter at tcp://127.0.0.1:{port}\n"
        return running[-1]

    start.port = port  # type: ignore[attr-defined]
    yield start
    for process in running:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.needs("module:pymodbus")
def test_a_meter_is_read_also_after_it_was_away(
    agent: AgentStarter, bundle: BundleMaker, meter: Callable[[], subprocess.Popen[str]]
) -> None:
    example = (ROOT / "examples/meter/function.toml").read_text()
    manifest = example[example.index("[triggers.meter]") :].replace("5020", str(meter.port))  # type: ignore[attr-defined]
    folder = bundle("meter", KEEPS, manifest.replace('"1s"', '"50ms"') + MAY_WRITE)
    process = meter()
    one = agent(folder)
    one.wait(lambda: len(got(folder)) >= 3, "readings")
    assert set(got(folder)[0]) == {"voltage", "current", "energy_wh", "relay"}
    assert trigger(one, "meter") == ("running", "")
    end(process)
    one.wait(lambda: "cannot be reached" in trigger(one, "meter")[1], "the loss to be told")
    before = len(got(folder))
    meter()
    one.wait(lambda: len(got(folder)) > before and trigger(one, "meter")[0] == "running", "readings again")
