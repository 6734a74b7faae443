"""What an output is given, in memory: it keeps what was called and logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgehost.config import Config
from edgehost.event import Event, Response


@dataclass
class FakeOutputHost:
    """Keeps the promises of edgehost/plugin.py, OutputHost."""

    function_name: str = "sensor"
    name: str = "out"
    config: Config = field(default_factory=Config)
    answer: Callable[[str, Event], Response] = lambda name, event: Response()
    calls: list[tuple[str, Event]] = field(default_factory=list)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        return logging.LoggerAdapter(logging.getLogger("edgehost.test"), {})

    def broker(self, name: str) -> Any:
        raise AssertionError("these outputs ask for no broker")

    def shared(self, key: str, make: Callable[[], Any]) -> Any:
        raise AssertionError("these outputs share nothing")

    def call(self, function_name: str, event: Event) -> asyncio.Future[Response]:
        self.calls.append((function_name, event))
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        future.set_result(self.answer(function_name, event))
        return future


@pytest.fixture
def make_host() -> Callable[..., FakeOutputHost]:
    return FakeOutputHost
