"""The agent: its command line as values, and an orderly end at any moment of its life."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edgehost.agent import Agent, main
from edgehost.config import Broker, Config
from edgehost.errors import EdgehostError
from edgehost.event import Event
from edgehost.options import Options, parse

PATIENCE_S = float(os.environ.get("EDGEHOST_TEST_PATIENCE_S", "30"))


def test_without_arguments_the_agent_has_its_defaults() -> None:
    assert parse([]) == (Config(), Options())


def test_the_command_line_becomes_values(tmp_path: Path) -> None:
    folders = [f"--function={tmp_path}", f"--function={tmp_path / 'b'}"]
    places = ["--broker=mqtt://b:1", "--http=[::1]:8081", f"--socket={tmp_path / 's'}"]
    config, options = parse([*folders, *places, "--watch", "--log-level=debug", "--log-format=json"])
    assert config.functions == (tmp_path, tmp_path / "b")
    assert config.brokers["default"] == Broker(url="mqtt://b:1")
    assert (config.http.listen, config.socket) == ("[::1]:8081", tmp_path / "s")
    assert (config.log.level, config.log.format) == ("debug", "json")
    assert options == Options(watch=True, embedded_broker=False)
    assert parse(["--broker=embedded"])[1].embedded_broker


def test_only_a_function_named_alone_answers_at_the_root(tmp_path: Path) -> None:
    (tmp_path / "edgehost.toml").write_text('[agent]\nfunctions = ["only"]\n')
    service, alone = f"--config={tmp_path / 'edgehost.toml'}", f"--function={tmp_path}"
    assert parse([alone])[1].standalone
    assert not parse([alone, f"--function={tmp_path / 'b'}"])[1].standalone
    assert not parse([service])[1].standalone
    assert not parse([service, alone])[1].standalone


def test_a_wrong_profile_is_one_line_and_status_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "edgehost.toml").write_text('[agent]\nprofile = "board.toml"\n')
    (tmp_path / "board.toml").write_text('extends = "raspberry-pi-4b"\ncors = 4\n')
    assert main([f"--config={tmp_path / 'edgehost.toml'}"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"edgehost: {tmp_path / 'board.toml'} cors: no such key; did you mean cores?"


async def test_the_log_names_the_board(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent(Config(socket=tmp_path / "s", profile="raspberry-pi-5"), Options())
    agent.stop()
    with caplog.at_level("INFO", "edgehost.agent"):
        await agent.run()
    assert "board: Raspberry Pi 5 (edgehost.toml says so)" in caplog.messages


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "edgehost.toml").write_text('[http]\nlisten = "127.0.0.1:1"\n[log]\nlevel = "error"\n')
    config, _ = parse([f"--config={tmp_path / 'edgehost.toml'}", "--http=127.0.0.1:2"])
    assert (config.http.listen, config.log.level) == ("127.0.0.1:2", "error")


def test_a_wrong_file_is_one_line_and_status_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "edgehost.toml").write_text("[http]\nlisten = 3\n")
    assert main([f"--config={tmp_path / 'edgehost.toml'}"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("edgehost: ")
    assert "listen" in line


def bundle(folder: Path, name: str, code: str, manifest: str = "") -> Path:
    (folder / name).mkdir()
    (folder / name / "main.py").write_text(code)
    (folder / name / "function.toml").write_text(f'name = "{name}"\nhandler = "main:handler"\n{manifest}')
    return folder / name


@pytest.fixture
async def running(whole_again: None, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`agent, task = running(*folders)`: an agent of this process, and its run; stopped at the end."""
    caught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: caught.append(context))
    started: list[tuple[Agent, asyncio.Task[None]]] = []

    def run(*folders: Path) -> tuple[Agent, asyncio.Task[None]]:
        config = replace(Config(), functions=folders, socket=tmp_path / "agent.sock")
        agent = Agent(config, Options())
        started.append((agent, asyncio.create_task(agent.run())))
        return started[-1]

    yield run
    for agent, task in started:
        agent.stop()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), PATIENCE_S)
    gc.collect()
    await asyncio.sleep(0)
    assert not caught, [(each["message"], each.get("exception")) for each in caught]


async def until(condition: Callable[[], Any]) -> Any:
    for _ in range(int(PATIENCE_S * 200)):
        if value := condition():
            return value
        await asyncio.sleep(0.005)
    pytest.fail("waited too long")


def states(agent: Agent) -> dict[str, str]:
    return {status.name: status.state for status in agent.functions()}


async def test_functions_answer_and_end_with_the_agent(running: Any, tmp_path: Path) -> None:
    agent, task = running(bundle(tmp_path, "echo", "handler = lambda context, event: event.body"))
    await until(lambda: states(agent).get("echo") == "ready")
    assert (await agent.invoke("echo", Event(b"hi"))).body == b"hi"
    agent.stop()
    await asyncio.wait_for(task, PATIENCE_S)


async def test_functions_call_each_other_by_name(running: Any, tmp_path: Path) -> None:
    calls = "def handler(context, event):\n    return context.platform.call_function('echo', event).body + b'!'"
    agent, _ = running(bundle(tmp_path, "echo", "handler = lambda context, event: event.body"), bundle(tmp_path, "caller", calls))
    await until(lambda: set(states(agent).values()) == {"ready"})
    assert (await agent.invoke("caller", Event(b"hi"))).body == b"hi!"


async def test_a_stop_does_not_wait_for_a_function_that_never_loads(running: Any, tmp_path: Path) -> None:
    slow = bundle(tmp_path, "slow", "import time\ntime.sleep(1000)\nhandler = print", "start_timeout_s = 900\n")
    agent, task = running(slow, bundle(tmp_path, "echo", "handler = lambda context, event: event.body"))
    await until(lambda: states(agent).get("echo") == "ready")
    agent.stop()
    await asyncio.wait_for(task, PATIENCE_S)


@pytest.mark.parametrize("turns", [0, 1, 5, 20, 50])
async def test_a_stop_at_any_moment_of_a_start_leaves_nothing(running: Any, tmp_path: Path, turns: int) -> None:
    agent, task = running(bundle(tmp_path, "echo", "handler = lambda context, event: event.body"))
    for _ in range(turns):
        await asyncio.sleep(0.002)
    agent.stop()
    await asyncio.wait_for(task, PATIENCE_S)


async def test_what_cannot_run_is_shown_and_the_others_run(running: Any, tmp_path: Path) -> None:
    agent, _ = running(
        bundle(tmp_path, "bad", "raise ValueError('no')"),
        bundle(tmp_path, "odd", "handler = print", 'runtime = "cobol"\n'),
        bundle(tmp_path, "echo", "handler = lambda context, event: event.body"),
    )
    await until(lambda: states(agent) == {"bad": "failed", "odd": "failed", "echo": "ready"})
    errors = {status.name: status.last_error for status in agent.functions()}
    assert "ValueError: no" in errors["bad"]
    assert "cobol" in errors["odd"]
    assert (await agent.invoke("bad", Event())).code == "not_ready"


async def test_a_function_that_is_not_there_is_named(running: Any, tmp_path: Path) -> None:
    agent, _ = running(bundle(tmp_path, "echo", "handler = lambda context, event: event.body"))
    await until(lambda: states(agent).get("echo") == "ready")
    with pytest.raises(EdgehostError, match="there are: echo"):
        await agent.invoke("nobody", Event())
    response = await agent.call("nobody", Event())
    assert (response.code, response.status) == ("not_ready", 503)
