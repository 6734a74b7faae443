"""Everything a function logs becomes records of its worker: `context.logger`, the standard `logging` module, and `print`.

Levels are debug, info, warning and error. A record that is below the function's level is dropped before it is formatted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from typing import Any

from edgehost.sdk.jsonable import jsonable
from edgehost.sdk.lines import LineStream
from edgehost.sdk.link import Link
from edgehost.sdk.ownership import Owner

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
_NAMES = {number: name for name, number in LEVELS.items()}
_STANDARD_ERROR = 2


class Records:
    """Where log records go: through the link, or from a foreign thread or forked child as a line to the real standard error.

    The agent reads that as output of the function as well, only without an event id.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._owner = Owner()

    def add(self, level: str, message: str, fields: dict[str, Any]) -> None:
        """Send one record; `fields` may hold anything."""
        ready = {name: jsonable(value) for name, value in fields.items()}
        if self._owner.here():
            self._send(level, message, ready)
            return
        line = f"{level}: {message} {json.dumps(ready)}\n" if ready else f"{level}: {message}\n"
        os.write(_STANDARD_ERROR, line.encode("utf-8", "replace"))

    def _send(self, level: str, message: str, fields: dict[str, Any]) -> None:
        try:
            self._link.log(level, message, fields)
        except UnicodeEncodeError:  # a lone surrogate, which no wire can carry: os.fsdecode makes them of odd file names
            clean = json.dumps([message, fields], ensure_ascii=False).encode("utf-8", "replace")
            self._link.log(level, *json.loads(clean))


class Logger:
    """`context.logger`: Nuclio's methods, and the ones Nuclio lacks. Arguments are `%`-formatted into the message.

    `threshold` is the lowest level that is sent, as a number of the `logging` module.
    """

    def __init__(self, level: str, link: Link) -> None:
        self.threshold = LEVELS[level]
        self._records = Records(link)
        self._bound: dict[str, Any] = {}

    def bind(self, **fields: Any) -> None:
        """Add `fields` to every record from now on; a bound field wins over one of the call, as in Nuclio."""
        self._bound.update(fields)

    def debug(self, message: Any, /, *args: Any) -> None:
        self._log(DEBUG, message, args, {})

    def info(self, message: Any, /, *args: Any) -> None:
        self._log(INFO, message, args, {})

    def warn(self, message: Any, /, *args: Any) -> None:
        self._log(WARNING, message, args, {})

    def warning(self, message: Any, /, *args: Any) -> None:
        self._log(WARNING, message, args, {})

    def error(self, message: Any, /, *args: Any) -> None:
        self._log(ERROR, message, args, {})

    def critical(self, message: Any, /, *args: Any) -> None:
        self._log(ERROR, message, args, {})

    def exception(self, message: Any, /, *args: Any) -> None:
        """An error with the traceback of the exception being handled."""
        self._log(ERROR, message, args, {"traceback": traceback.format_exc()})

    def debug_with(self, message: Any, /, *args: Any, **fields: Any) -> None:
        self._log(DEBUG, message, args, fields)

    def info_with(self, message: Any, /, *args: Any, **fields: Any) -> None:
        self._log(INFO, message, args, fields)

    def warn_with(self, message: Any, /, *args: Any, **fields: Any) -> None:
        self._log(WARNING, message, args, fields)

    def warning_with(self, message: Any, /, *args: Any, **fields: Any) -> None:
        self._log(WARNING, message, args, fields)

    def error_with(self, message: Any, /, *args: Any, **fields: Any) -> None:
        self._log(ERROR, message, args, fields)

    def critical_with(self, message: Any, /, *args: Any, **fields: Any) -> None:
        self._log(ERROR, message, args, fields)

    def _log(self, level: int, message: Any, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
        if level >= self.threshold:
            self._records.add(_NAMES[level], formatted(message, args), {**fields, **self._bound} if self._bound else fields)


def formatted(message: Any, args: tuple[Any, ...]) -> str:
    """`message % args` by the rules of `logging` (one dict gives names). What does not fit is shown beside the message."""
    try:
        text = str(message)
        if not args:
            return text
        named = len(args) == 1 and isinstance(args[0], dict) and args[0]
        return text % (args[0] if named else args)
    except Exception:
        return f"{jsonable(message)} {jsonable(args)}"


class RecordHandler(logging.Handler):
    """Makes records of the standard `logging` module records of the worker. All but the message travels in the fields."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._records = Records(link)

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {}
        if record.name != "root":
            fields["logger"] = record.name
        extra = getattr(record, "with", None)  # how nuclio-sdk's own logger carries its fields
        if isinstance(extra, dict):
            fields.update(extra)
        if record.exc_info and record.exc_info[0] is not None:
            fields["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        if record.stack_info:
            fields["stack"] = record.stack_info
        self._records.add(level_name(record.levelno), formatted(record.msg, _args(record)), fields)


def level_name(number: int) -> str:
    """The level of edgehost for a number of `logging`: the highest that is not above it."""
    return "error" if number >= ERROR else "warning" if number >= WARNING else "info" if number >= INFO else "debug"


def _args(record: logging.LogRecord) -> tuple[Any, ...]:
    """LogRecord has already taken a lone dict out of its tuple; put it back, so that one rule formats both."""
    args = record.args
    return args if isinstance(args, tuple) else (args,) if args else ()


def capture_output(link: Link, level: str) -> None:
    """Make log records of the root logger (from `level` up), `sys.stdout` (info) and `sys.stderr` (warning), for good."""
    root = logging.getLogger()
    root.handlers[:] = [RecordHandler(link)]
    root.setLevel(LEVELS[level])
    # At debug asyncio tells of every loop it makes, and `asyncio.run` in a handler makes one an event.
    logging.getLogger("asyncio").setLevel(max(LEVELS[level], INFO))
    records = Records(link)
    sys.stdout = LineStream(lambda line: records.add("info", line, {"stream": "stdout"}), 1)
    sys.stderr = LineStream(lambda line: records.add("warning", line, {"stream": "stderr"}), _STANDARD_ERROR)
