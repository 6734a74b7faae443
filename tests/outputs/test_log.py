"""An answer becomes one line of the function's log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from edgehost.event import Event, Response, failure
from edgehost.outputs.log import LogOutput


async def lines(make_host: Callable[..., Any], caplog: pytest.LogCaptureFixture, settings: Any, response: Response) -> Any:
    caplog.set_level(logging.DEBUG, "edgehost.test")
    output = LogOutput(msgspec.convert(settings, LogOutput.Settings), make_host())
    await output.start()
    await output.send(Event(id="e1"), response)
    await output.stop()
    return [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    ("settings", "response", "level", "line"),
    [
        ({}, Response(body=b"21.5 C"), "INFO", "21.5 C"),
        ({"level": "warning"}, Response(body="über".encode()), "WARNING", "über"),
        ({"level": "debug"}, Response(body=b""), "DEBUG", ""),
        ({}, Response(body=b"a\nb\x1b[31m"), "INFO", "a\\nb\\x1b[31m"),
        ({}, Response(body=b"\xff\x00"), "INFO", "\\xff\\x00"),
        ({"most_bytes": 4}, Response(body=b"123456"), "INFO", "1234… (6 bytes)"),
        ({"level": "error"}, failure("timeout", "too slow"), "ERROR", "timeout: too slow"),
    ],
)
async def test_an_answer_is_one_line(
    make_host: Any, caplog: Any, settings: dict[str, Any], response: Response, level: str, line: str
) -> None:
    assert await lines(make_host, caplog, settings, response) == [(level, line)]


@pytest.mark.parametrize("settings", [{"level": "loud"}, {"most_bytes": 0}, {"lvl": "info"}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, LogOutput.Settings)
