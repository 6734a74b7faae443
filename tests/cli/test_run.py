"""`edgehost run` becomes the agent, and the other commands find it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from edgehost.cli import run as run_command
from edgehost.cli.run import START_AGENT, agent_arguments
from edgehost.options import parse


@pytest.fixture
def executed(monkeypatch):
    """The command lines that `run` would have become."""
    seen: list[list[str]] = []
    monkeypatch.setattr(run_command.os, "execv", lambda path, arguments: seen.append(arguments))
    return seen


def test_every_option_reaches_the_agent_under_its_own_name(cli, executed, tmp_path):
    for name in ("a", "-b"):
        (tmp_path / name).mkdir()
    config = tmp_path / "edgehost.toml"
    config.write_text("")
    options = ["--broker", "mqtt://b:1884", "--watch", "--http", "127.0.0.1:0", "--config", config, "--socket", "/s"]
    options += ["--log-level", "debug", "--log-format", "json", "--state", "/kept"]
    options += ["--serial", "/dev/a=b", "--serial", "meter=usb:0403:6001"]
    assert cli("run", *options, tmp_path / "a", tmp_path / "-b").code == 0
    (command,) = executed
    start = 1 + len(START_AGENT)
    assert command[:start] == [sys.executable, *START_AGENT]
    parsed, extras = parse(command[start:])
    assert parsed.functions == (tmp_path / "a", tmp_path / "-b")
    assert (parsed.http.listen, parsed.socket, parsed.state) == ("127.0.0.1:0", Path("/s"), Path("/kept"))
    assert (parsed.log.level, parsed.log.format) == ("debug", "json")
    assert {name: port.port for name, port in parsed.serial.items()} == {"default": "/dev/a=b", "meter": "usb:0403:6001"}
    assert parsed.brokers["default"].url == "mqtt://b:1884" and extras.watch and not extras.embedded_broker


@pytest.mark.parametrize(("options", "functions"), [([], [Path.cwd()]), (["--config", "e.toml"], [])])
def test_without_folders_it_is_this_one_unless_a_file_says_which(cli, executed, tmp_path, monkeypatch, options, functions):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "e.toml").write_text("")
    assert cli("run", *options).code == 0
    given = [argument for argument in executed[0] if argument.startswith("--function")]
    assert given == (["--function=."] if functions else [])


def test_the_embedded_broker_and_nothing_else():
    assert agent_arguments([Path("f")], False, {"--broker": "embedded", "--http": None}) == ["--function=f", "--broker=embedded"]


@pytest.mark.parametrize("broker", ["embedded", "mqtt://b", "mqtts://b:8884", "mqtt://[::1]:1883", "mqtt://10.0.0.1"])
def test_brokers_that_are_ones(cli, executed, broker):
    assert cli("run", "--broker", broker).code == 0 and f"--broker={broker}" in executed[0]


@pytest.mark.parametrize("broker", ["", "mqtt://", "b:1883", "http://b", "mqtt://b:x", "mqtt://b:99999", "mqtt://[::1"])
def test_brokers_that_are_none(cli, executed, broker):
    assert cli("run", "--broker", broker).code == 2 and not executed


@pytest.mark.parametrize("address", ["", ":80", "h:", "h:x", "h:65536", "h:-1", "80"])
def test_addresses_that_are_none(cli, executed, address):
    assert cli("run", "--http", address).code == 2 and not executed


def test_a_folder_that_is_not_there_is_2(cli, executed, tmp_path):
    assert cli("run", tmp_path / "gone").code == 2 and not executed


@pytest.fixture
def running(tmp_path, program, free_port):
    """A real agent, made with `edgehost new` and started with `edgehost run` in the function's own folder."""
    assert program("new", "hello", "--into", tmp_path).code == 0
    # A module of the standard library's name beside the function must not end up in the agent.
    (tmp_path / "hello" / "queue.py").write_text("raise RuntimeError('shadowed')")
    port = free_port()
    socket = tmp_path / "agent.sock"
    command = [sys.executable, "-m", "edgehost.cli.entry", "run", "--http", f"127.0.0.1:{port}", "--socket", str(socket)]
    source = Path(run_command.__file__).parents[2]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH")]))}
    agent = subprocess.Popen(command, cwd=tmp_path / "hello", env=environ, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: states(program, socket) == {"hello": "ready"}, agent)
        yield agent, socket, port
    finally:
        agent.kill()
        agent.communicate(timeout=20)


def states(program, socket):
    result = program("functions", "--socket", socket, "--json")
    return {function["name"]: function["state"] for function in result.json["functions"]} if result.code == 0 else {}


def wait_for(condition, agent):
    deadline = time.monotonic() + 60
    while not condition():
        assert agent.poll() is None, agent.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.needs("module:uvicorn")
def test_a_person_makes_runs_calls_and_ends_a_function(running, program):
    agent, socket, port = running
    answer = program("invoke", "hello", "--body", '{"name": "Ada"}', "--socket", socket, "--json").json
    assert json.loads(answer["body"]) == {"greeting": "Hello, Ada!", "by": "hello"}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello?name=Bo", timeout=20) as response:
        assert json.load(response)["greeting"] == "Hello, Bo!"
    (function,) = program("functions", "--socket", socket, "--json").json["functions"]
    assert (function["handled"], function["failed"], function["workers_ready"]) == (2, 0, 1)
    assert function["triggers"][0]["state"] == "running"
    logged = program("invoke", "hello", "--log-level", "info", "--socket", socket, "--json").json["logs"]
    assert [record["message"] for record in logged] == ["greeted"]
    second = program("run", "--socket", socket, running[1].parent / "hello")
    assert second.code == 5 and f"an agent (pid {agent.pid}, edgehost" in second.err
    agent.send_signal(signal.SIGINT)
    assert agent.wait(20) == 0
    assert not socket.exists() and program("functions", "--socket", socket).code == 4
