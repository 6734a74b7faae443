"""The agent's log: one line a record on standard error, for people (text) or machines (JSON). Must not know who logs what.

A record may carry `function`, `trigger`, `event_id` and `fields` (a dict of JSON-ready values) beside its message.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any

from edgehost.config import Log

_COLOURS = {"DEBUG": "\x1b[2m", "INFO": "", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31;1m"}

_OWN = frozenset({"ts", "level", "message", "function", "trigger", "event_id"})


class BoundLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic only from Python 3.11 on
    """A logger whose records all bear the same names: `BoundLogger(log, function="hello", trigger="http")`.

    (logging.LoggerAdapter before Python 3.13 drops the `extra` of the single call; this keeps both.)
    """

    def __init__(self, logger: logging.Logger, **bound: str) -> None:
        super().__init__(logger, bound)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class TextFormatter(logging.Formatter):
    """`12:30:05.123 info  hello/http 7f3a  message  key=value`"""

    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{int(record.msecs):03d}"
        who = "/".join(name for name in (getattr(record, "function", ""), getattr(record, "trigger", "")) if name) or "agent"
        event = getattr(record, "event_id", "")
        fields: dict[str, Any] = dict(getattr(record, "fields", None) or {})
        trace = fields.pop("traceback", "")
        message = record.getMessage().replace("\n", "\n    ")  # what looks like a line of the log is one
        words = [at, f"{record.levelname.lower():7}", who, *([event[:8]] if event else []), message]
        text = " ".join([*words, *(f"{key}={value}" for key, value in fields.items())])
        if trace:
            text += "\n" + "\n".join("    " + line for line in str(trace).rstrip().splitlines())
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        colour = _COLOURS.get(record.levelname, "") if self._colour else ""
        return f"{colour}{text}\x1b[0m" if colour else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts (Unix seconds), level, message, and what the record carries."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"ts": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        for name in ("function", "trigger", "event_id"):
            if value := getattr(record, name, ""):
                line[name] = value
        for name, value in (getattr(record, "fields", None) or {}).items():
            # A function chooses its fields' names: none of them takes the place of what the agent says itself.
            line[f"field.{name}" if name in _OWN else name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def set_up(settings: Log) -> None:
    """Send everything at `settings.level` and above to standard error."""
    terminal = sys.stderr.isatty()
    text = settings.format == "text" or (settings.format == "auto" and terminal)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter(terminal) if text else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("edgehost").setLevel(settings.level.upper())
