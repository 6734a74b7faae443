"""A pseudo-terminal that can be plugged in and out under one name, and a user of a port that keeps what it hears."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgehost.config import Config
from edgehost.tty import LineSettings, Port, Ports

DEADLINE_S = 20


class Plug:
    """A device at `path`: `plug_in` makes it, `pull` takes it away under whoever has it open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.far = -1
        """The descriptor of the other side, non-blocking."""

    def plug_in(self) -> None:
        self.far, near = os.openpty()
        tty.setraw(near)
        os.set_blocking(self.far, False)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(near))
        os.close(near)

    def pull(self) -> None:
        if self.far >= 0:
            self.path.unlink()
            os.close(self.far)
            self.far = -1

    def send(self, data: bytes) -> None:
        assert os.write(self.far, data) == len(data)

    def got(self) -> bytes:
        """What has been written to the device since the last time."""
        try:
            return os.read(self.far, 1 << 20)
        except OSError:  # nothing yet, or nobody has the device open now
            return b""


class Listener:
    """A user of a port."""

    def __init__(self, prompt: bool = False, function: str = "f", **line: Any) -> None:
        self.function = function
        self.line = LineSettings(**line)
        self.prompt = prompt
        self.data = b""
        self.chunks: list[bytes] = []
        self.told: list[tuple[str, str]] = []

    def received(self, data: bytes) -> None:
        self.data += data
        self.chunks.append(data)

    def port_is(self, state: str, message: str) -> None:
        self.told.append((state, message))

    @property
    def state(self) -> str:
        return self.told[-1][0] if self.told else ""


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[Plug]:
    """A device that is plugged in."""
    made = Plug(tmp_path / "ttyUSB7")
    made.plug_in()
    yield made
    made.pull()


@pytest.fixture
async def ports(whole_again: None) -> AsyncIterator[Ports]:
    made = Ports()
    yield made
    await made.close()


@pytest.fixture
def join(ports: Ports) -> Callable[..., Port]:
    """`join(listener)`: its port, joined."""
    return lambda listener, config=Config(): ports.use(listener, config)  # noqa: B008 - a frozen value


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """`await until(lambda: condition)`: return as soon as it holds, fail after a generous deadline."""

    async def wait(true: Callable[[], object]) -> None:
        async def poll() -> None:
            while not true():  # noqa: ASYNC110 - a test looks from outside; there is nothing to wait on
                await asyncio.sleep(0.005)

        await asyncio.wait_for(poll(), DEADLINE_S)

    return wait
