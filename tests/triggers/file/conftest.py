"""A watched folder, its trigger and what came of it. Real folders, the real inotify; the agent is a fake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edgehost.event import Event, Response, failure
from edgehost.manifest.conversion import to_struct
from edgehost.triggers.file import FileTrigger
from edgehost.triggers.file.settings import FileSettings

Until = Callable[[Callable[[], object]], Awaitable[None]]


class Inbox:
    """A watched folder, its trigger (started anew by `again`, as after a restart) and what came of it."""

    def __init__(self, make_host: Callable[..., Any], folder: Path, state: Path) -> None:
        self.folder, self.state = folder, state
        self._make_host = make_host
        self.host: Any = None
        self.trigger: FileTrigger | None = None

    async def watch(self, answer: Any = None, **settings: Any) -> Any:
        given = {"path": str(self.folder), "rescan_s": 0.1, "settle_s": 0.03, **settings}
        self.host = self._make_host(**({"answer": answer} if answer else {}))
        self.host.agent.config = replace(self.host.agent.config, state=self.state)
        self.trigger = FileTrigger(to_struct(given, FileSettings), self.host)
        await self.trigger.start()
        return self.host

    async def again(self, answer: Any = None, **settings: Any) -> Any:
        await self.stop()
        return await self.watch(answer, **settings)

    async def stop(self) -> None:
        if self.trigger is not None:
            await asyncio.wait_for(self.trigger.stop(), 20)
            self.trigger = None

    def put(self, name: str, body: bytes = b"x") -> Path:
        """As a careful writer does: elsewhere, then moved in."""
        hidden = self.folder.parent / f"put-{time.monotonic_ns()}"
        hidden.write_bytes(body)
        return hidden.rename(self.folder / name)

    @property
    def got(self) -> list[tuple[str, bytes]]:
        return [(event.headers["name"], event.body) for event in self.host.events]

    @property
    def told(self) -> tuple[str, str]:
        return self.host.reports[-1] if self.host.reports else ("", "")


@pytest.fixture
async def inbox(host: Callable[..., Any], tmp_path: Path) -> AsyncIterator[Inbox]:
    folder = tmp_path / "in"
    folder.mkdir()
    made = Inbox(host, folder, tmp_path / "state")
    yield made
    await made.stop()


def gate() -> tuple[asyncio.Event, Callable[[Event], Awaitable[Response]]]:
    opened = asyncio.Event()

    async def answer(event: Event) -> Response:
        await opened.wait()
        return Response(200)

    return opened, answer


async def fails(event: Event) -> Response:
    return failure("raised", "no")


async def settle() -> None:
    """Longer than a rescan and a settling time together."""
    await asyncio.sleep(0.25)
