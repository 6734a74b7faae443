"""A host that keeps what a poller tells."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest


class Told:
    """As much of edgehost.plugin.TriggerHost as a poller uses."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reports: list[tuple[str, str]] = []
        self.log = logging.LoggerAdapter(logging.getLogger("edgehost.test"), {})

    def report(self, state: str, message: str = "") -> None:
        self.reports.append((state, message))


@pytest.fixture
def told() -> Any:
    return Told()
