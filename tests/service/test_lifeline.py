"""What systemd hears in every phase of an agent's life."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edgehost.service.health import GRACE_S, Health
from edgehost.service.lifeline import Lifeline
from edgehost.service.notify import Supervision

FUNCTIONS = [Health("echo", "ready")]


class Manager:
    """A socket that hears, and the functions the lifeline looks at."""

    def __init__(self, place: Path) -> None:
        self.address = str(place / "notify")
        self.functions: list[Health] = list(FUNCTIONS)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)

    async def hear(self, *wanted: str) -> list[str]:
        """Every assignment up to one that begins with each of `wanted`."""
        heard: list[str] = []
        while not all(any(each.startswith(want) for each in heard) for want in wanted):
            datagram = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self._socket, 4096), 20)
            heard += datagram.decode().splitlines()
        return heard

    def forget(self) -> None:
        """Nothing that was said so far counts."""
        while True:
            try:
                self._socket.recv(4096)
            except BlockingIOError:
                return

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    return Manager(tmp_path)


@pytest.fixture
async def line(manager: Manager) -> AsyncIterator[Callable[[float], Lifeline]]:
    made: list[Lifeline] = []

    def make(watchdog_s: float = 0.06) -> Lifeline:
        made.append(Lifeline(Supervision(manager.address, watchdog_s), lambda: manager.functions))
        made[-1].begin()
        return made[-1]

    yield make
    for each in made:
        each.close()
    manager.close()


async def test_a_start_that_goes_on_is_not_ended(line: Callable[..., Lifeline], manager: Manager) -> None:
    manager.functions = [Health("echo", "starting")]
    line()
    heard = await manager.hear("EXTEND_TIMEOUT_USEC=", "STATUS=0 of 1 functions run; echo starting")
    heard += await manager.hear("EXTEND_TIMEOUT_USEC=")
    assert "READY=1" not in heard
    assert "WATCHDOG=1" not in heard


async def test_a_running_agent_beats_and_tells_what_changes_once(line: Callable[..., Lifeline], manager: Manager) -> None:
    one = line()
    one.ready()
    heard = await manager.hear("READY=1", "WATCHDOG=1")
    assert "STATUS=1 of 1 functions run" in heard
    manager.forget()
    manager.functions.append(Health("rtd", "failed", "ImportError"))
    assert (await manager.hear("STATUS=1 of 2 functions run; rtd failed: ImportError"))[-1].startswith("STATUS")
    heard = [each for _ in range(4) for each in await manager.hear("WATCHDOG=1")]
    assert set(heard) == {"WATCHDOG=1"}


async def test_a_reload_is_told_from_begin_to_end(line: Callable[..., Lifeline], manager: Manager) -> None:
    one = line()
    one.ready()
    one.reloading()
    heard = await manager.hear("RELOADING=1", "MONOTONIC_USEC=")
    heard += await manager.hear("WATCHDOG=1")
    one.ready("not reloaded: edgehost.toml [http].listen: 3 is not allowed")
    heard = await manager.hear("READY=1", "STATUS=1 of 1 functions run; not reloaded: edgehost.toml [http].listen")
    one.ready()
    assert (await manager.hear("READY=1"))[-1] == "STATUS=1 of 1 functions run"


async def test_a_stop_that_goes_on_is_not_ended(line: Callable[..., Lifeline], manager: Manager) -> None:
    one = line()
    one.ready()
    one.stopping()
    await manager.hear("STOPPING=1", "STATUS=is stopping")
    manager.functions = []
    heard = await manager.hear("EXTEND_TIMEOUT_USEC=", "WATCHDOG=1")
    assert not [each for each in heard if each.startswith("STATUS")]


async def test_an_event_the_engine_left_behind_ends_the_signs_of_life(
    line: Callable[..., Lifeline], manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    one = line()
    one.ready()
    await manager.hear("WATCHDOG=1")
    with caplog.at_level(logging.INFO, "edgehost.service"):
        manager.functions = [Health("echo", "ready", overdue_s=GRACE_S + 1), Health("a", "ready")]
        await asyncio.sleep(0.3)
        manager.forget()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(manager.hear("WATCHDOG=1"), 0.3)
        assert [record.levelname for record in caplog.records] == ["CRITICAL"]
        assert "events of echo are" in caplog.text
        manager.functions = list(FUNCTIONS)
        await manager.hear("WATCHDOG=1")
    assert [record.levelname for record in caplog.records] == ["CRITICAL", "WARNING"]


async def test_no_watchdog_no_beats(line: Callable[..., Lifeline], manager: Manager) -> None:
    line(0.0).ready()
    assert "WATCHDOG=1" not in await manager.hear("READY=1")


async def test_without_a_manager_no_timer_runs() -> None:
    one = Lifeline(Supervision(), lambda: pytest.fail("nobody is to be told"))
    one.begin()
    one.stopping()
    await asyncio.sleep(0)
    one.close()
