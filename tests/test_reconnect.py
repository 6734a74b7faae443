"""Reconnect: again after a loss, at once after a nudge, with delays that grow until a connection stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from edgehost.errors import TriggerError
from edgehost.reconnect import Reconnect


async def test_it_tells_the_reason_and_tries_again() -> None:
    told: list[str] = []
    tries = 0

    async def connect(settled: Callable[[], None]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise TriggerError("no such port")
        if tries == 2:
            settled()
            return
        await asyncio.Event().wait()

    running = asyncio.create_task(Reconnect(connect, told.append, first_s=0.001).run())
    await asyncio.sleep(0.1)
    assert (tries, told) == (3, ["no such port", "it ended"])
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_an_error_nobody_foresaw_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    async def connect(settled: Callable[[], None]) -> None:
        if not told:
            raise TypeError("int() argument must be a string")
        await asyncio.Event().wait()

    running = asyncio.create_task(Reconnect(connect, told.append, first_s=0.001).run())
    await asyncio.sleep(0.1)
    assert told == ["it broke off: TypeError: int() argument must be a string"]
    assert "Traceback" in caplog.text
    assert not running.done()
    running.cancel()


async def test_a_nudge_ends_the_wait() -> None:
    tried = asyncio.Queue[None]()

    async def connect(settled: Callable[[], None]) -> None:
        tried.put_nowait(None)
        raise TriggerError("away")

    reconnect = Reconnect(connect, lambda reason: None, first_s=60.0, most_s=60.0)
    running = asyncio.create_task(reconnect.run())
    await tried.get()
    await asyncio.sleep(0)
    reconnect.nudge()
    await asyncio.wait_for(tried.get(), 1)
    running.cancel()


async def test_a_cancel_in_the_turn_of_a_nudge_ends_it() -> None:
    tried = asyncio.Event()

    async def connect(settled: Callable[[], None]) -> None:
        tried.set()
        raise TriggerError("away")

    reconnect = Reconnect(connect, lambda reason: None, first_s=60.0, most_s=60.0)
    running = asyncio.create_task(reconnect.run())
    await tried.wait()
    await asyncio.sleep(0.01)
    reconnect.nudge()
    await asyncio.sleep(0)
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=5)
    assert done
