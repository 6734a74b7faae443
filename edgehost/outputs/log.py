"""Answers as log lines of the function that gave them. Knows nothing of where the log goes."""

from __future__ import annotations

import logging
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from edgehost.event import Event, Response
from edgehost.manifest.model import LogLevel
from edgehost.plugin import OutputHost


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[outputs.NAME]` with `kind = "log"`."""

    level: LogLevel = "info"
    most_bytes: Annotated[int, Meta(ge=1, le=65536)] = 2048
    """A longer body is cut; its size is told."""


class LogOutput:
    """See edgehost/plugin.py, Output."""

    Settings: ClassVar[type[Struct]] = LogSettings

    def __init__(self, settings: LogSettings, host: OutputHost) -> None:
        self._level = logging.getLevelName(settings.level.upper())
        self._most_bytes = settings.most_bytes
        self._host = host

    async def start(self) -> None:
        """Nothing to open."""

    async def send(self, event: Event, response: Response) -> None:
        """Write one line; a failed answer is named by its code."""
        text = body_text(response.body, self._most_bytes)
        if response.failed:
            text = f"{response.code}: {text}"
        self._host.log.log(self._level, "%s", text, extra={"event_id": event.id})

    async def stop(self) -> None:
        """Nothing to close."""


def body_text(body: bytes, most_bytes: int) -> str:
    """A body for one line: what is not text is escaped, and what is too long is cut with the size told."""
    text = body[:most_bytes].decode("utf-8", "backslashreplace")
    line = "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)
    return line if len(body) <= most_bytes else f"{line}… ({len(body)} bytes)"
