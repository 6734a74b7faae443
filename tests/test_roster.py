"""The functions by name: changed while they run, and looked at by who watches over the agent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edgehost.agent import Agent
from edgehost.config import Config, Http, SerialPort
from edgehost.control.protocol import Reloaded
from edgehost.engine.function import Function
from edgehost.errors import ConfigError, ControlError
from edgehost.event import Event
from edgehost.options import Options

PATIENCE_S = float(os.environ.get("EDGEHOST_TEST_PATIENCE_S", "30"))
ECHO = "handler = lambda context, event: event.body"


class Device:
    """A folder of functions, the configuration that names some of them, and an agent of this process that runs those."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.config = replace(Config(), socket=place / "agent.sock")
        self.wrong = ""
        self.agent: Agent

    def function(self, folder: str, code: str = ECHO, manifest: str = "", name: str = "") -> Path:
        path = self._place / folder
        path.mkdir(exist_ok=True)
        (path / "main.py").write_text(code)
        (path / "function.toml").write_text(f'name = "{name or folder}"\nhandler = "main:handler"\n{manifest}')
        return path

    def name(self, *folders: str, **more: Any) -> None:
        self.config = replace(self.config, functions=tuple(self._place / folder for folder in folders), **more)

    def read(self) -> Config:
        if self.wrong:
            raise ConfigError(self.wrong)
        return self.config

    def states(self) -> dict[str, str]:
        return {each.name: each.state for each in self.agent.functions()}


@pytest.fixture
async def device(whole_again: None, tmp_path: Path) -> AsyncIterator[Callable[[], Any]]:
    """`one = await device("a", "b")`: an agent with these functions, running."""
    one = Device(tmp_path)
    runs: list[asyncio.Task[None]] = []

    async def start(*folders: str) -> Device:
        for folder in folders:
            one.function(folder)
        one.name(*folders)
        one.agent = Agent(one.config, Options(), read_config=one.read)
        runs.append(asyncio.create_task(one.agent.run()))
        for _ in range(int(PATIENCE_S * 100)):
            if set(one.states().values()) == {"ready"}:
                return one
            await asyncio.sleep(0.01)
        pytest.fail(f"not started: {one.states()}")

    yield start
    one.agent.stop()
    await asyncio.wait_for(asyncio.gather(*runs), PATIENCE_S)


async def test_a_reload_without_a_change_keeps_everything(device: Any) -> None:
    one = await device("a", "b")
    assert await one.agent.reload() == Reloaded(kept=["a", "b"])


async def test_a_reload_adds_replaces_and_removes(device: Any) -> None:
    one = await device("a", "b", "c")
    one.function("a", "handler = lambda context, event: 'new'")
    one.function("d")
    one.name("a", "c", "d", http=Http("127.0.0.1:1"))
    done = await one.agent.reload()
    assert done == Reloaded(added=["d"], replaced=["a"], removed=["b"], kept=["c"], restart=["[http]"])
    assert (await one.agent.invoke("a", Event())).body == b"new"
    assert one.states() == {"a": "ready", "c": "ready", "d": "ready"}
    assert await one.agent.reload() == Reloaded(kept=["a", "c", "d"], restart=["[http]"])


async def test_what_cannot_be_loaded_leaves_the_version_before(device: Any) -> None:
    one = await device("a")
    one.function("a", "raise ImportError('no rtd')")
    done = await one.agent.reload()
    assert done.replaced == [] and "no rtd" in done.problems[0]
    assert (await one.agent.invoke("a", Event(b"hi"))).body == b"hi"
    one.function("a")
    assert (await one.agent.reload()).replaced == ["a"]


async def test_a_trigger_that_could_not_start_is_started_once_the_cause_has_gone(device: Any, tmp_path: Path) -> None:
    """A port's name that edgehost.toml lacked, and another function that had the port set otherwise."""
    one = await device("a")
    line = '[triggers.{0}]\nkind = "serial"\nport = "{1}"\nbaud = {2}\n'
    one.function("a", manifest=line.format("gps", "gps", 4800) + '[triggers.tick]\nkind = "cron"\nevery = "1h"\n')
    one.function("b", manifest=line.format("meter", tmp_path / "tty", 9600))
    one.name("a", "b")
    await one.agent.reload()

    def triggers() -> dict[str, str]:
        return {trigger.name: trigger.state for each in one.agent.functions() for trigger in each.triggers}

    assert triggers() == {"gps": "failed", "tick": "running", "meter": "degraded"}
    one.name("a", "b", serial={"gps": SerialPort(str(tmp_path / "tty"))})
    assert (await one.agent.reload()).kept == ["a", "b"]
    (gps, _) = one.agent.functions()[0].triggers
    assert gps.state == "failed" and "baud: 4800 is not what" in gps.message
    one.name("a")
    assert (await one.agent.reload()).removed == ["b"]
    assert triggers() == {"gps": "degraded", "tick": "running"}


async def test_a_configuration_that_is_wrong_changes_nothing(device: Any) -> None:
    one = await device("a")
    one.function("b")
    one.name("b")
    one.wrong = "edgehost.toml [http].listen: 3 is not allowed"
    with pytest.raises(ConfigError, match=r"listen: 3"):
        await one.agent.reload()
    assert one.states() == {"a": "ready"}


async def test_a_function_under_another_name_is_another(device: Any) -> None:
    one = await device("a")
    one.function("a", name="other")
    done = await one.agent.reload()
    assert (done.added, done.removed) == (["other"], ["a"])


async def test_a_reload_that_breaks_off_is_told(device: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    one = await device("a")

    def broken(manifest: object) -> None:
        raise OSError(24, "Too many open files")

    one.function("b")
    one.name("a", "b")
    with monkeypatch.context() as patched:
        patched.setattr("edgehost.roster.breed_of", broken)
        with pytest.raises(ControlError, match=r"reloaded in part: OSError: .*Too many open files; mend the cause"):
            await one.agent.reload()
    assert "reloaded in part" in caplog.text and not any(line.getMessage() == "reloaded" for line in caplog.records)


async def test_who_asks_and_leaves_does_not_stop_a_reload(device: Any) -> None:
    one = await device("a")
    one.function("b")
    one.name("a", "b")
    asking = asyncio.create_task(one.agent.reload())
    await asyncio.sleep(0)
    asking.cancel()
    assert await one.agent.reload() == Reloaded(kept=["a", "b"])


async def test_a_stop_in_the_middle_of_a_reload_leaves_nothing(device: Any) -> None:
    one = await device("a")
    one.function("slow", "import time\ntime.sleep(1000)\n" + ECHO, "start_timeout_s = 900\n")
    one.name("a", "slow")
    asking = asyncio.create_task(one.agent.reload())
    await asyncio.sleep(0.2)
    one.agent.stop()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_an_event_nobody_ends_at_its_deadline_is_seen(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Function, "_sweep", lambda self: None)
    one = await device("a")
    one.function("a", "import time\ndef handler(context, event):\n    time.sleep(float(event.body))", "timeout_s = 0.1\n")
    await one.agent.reload()
    answer = asyncio.ensure_future(one.agent.invoke("a", Event(b"0.8")))
    await asyncio.sleep(0.5)
    assert one.agent._roster.healths()[0].overdue_s > 0.2
    await answer
    assert one.agent._roster.healths()[0].overdue_s == 0.0
