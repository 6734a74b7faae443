"""A port that is not read, for one of its users has no room: what waits, what is noticed all the same, and who goes on."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from edgehost.tty import port as tty_port
from tests.tty.conftest import Listener, Plug

Until = Callable[[Callable[[], object]], Awaitable[None]]
Join = Callable[..., Any]


async def joined(join: Join, until: Until, plug: Plug, *listeners: Listener) -> Any:
    port = None
    for listener in listeners:
        port = join(listener)
    await until(lambda: all(listener.state == "running" for listener in listeners))
    return port


async def test_nothing_is_read_until_every_user_has_room(join: Join, plug: Plug, until: Until) -> None:
    one, other = Listener(port=str(plug.path)), Listener(port=str(plug.path))
    port = await joined(join, until, plug, one, other)
    port.pause(one)
    port.pause(other)
    plug.send(b"waits")
    port.resume(one)
    port.read()
    assert port.paused and one.data == other.data == b""
    port.resume(other)
    await until(lambda: one.data == other.data == b"waits")


async def test_a_user_that_goes_holds_nobody_up(join: Join, plug: Plug, until: Until) -> None:
    one, other = Listener(port=str(plug.path)), Listener(port=str(plug.path))
    port = await joined(join, until, plug, one, other)
    port.pause(one)
    plug.send(b"waits")
    await port.leave(one)
    await until(lambda: other.data == b"waits")


async def test_answers_are_written_meanwhile(join: Join, plug: Plug, until: Until) -> None:
    one = Listener(port=str(plug.path))
    port = await joined(join, until, plug, one)
    port.pause(one)
    assert port.write(b"answer") is None
    assert plug.got() == b"answer"
    port.resume(one)


async def test_a_busy_line_is_paused_between_two_of_its_reads(join: Join, plug: Plug, until: Until) -> None:
    one = Listener(port=str(plug.path))
    port = await joined(join, until, plug, one)
    for number in range(20):
        plug.send(b"%d;" % number)
        await until(lambda number=number: one.data.endswith(b"%d;" % number))  # type: ignore[misc]
    port.pause(one)
    size = len(one.data)
    plug.send(b"more")
    assert port._pacing is None and len(one.data) == size
    port.resume(one)
    await until(lambda: one.data.endswith(b"more"))


async def test_a_plug_that_is_pulled_is_noticed(
    join: Join, plug: Plug, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tty_port, "_CHECK_S", 0.01)
    one = Listener(port=str(plug.path))
    port = await joined(join, until, plug, one)
    port.pause(one)
    plug.pull()
    await until(lambda: one.state == "degraded")
    plug.plug_in()
    await until(lambda: one.state == "running")
    os.write(plug.far, b"new")
    port.read()
    assert one.data == b"", "it has no room on the new one either"
    port.resume(one)
    await until(lambda: one.data == b"new")
