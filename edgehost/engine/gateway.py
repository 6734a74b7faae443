"""The worker's edgehost.sdk.link.Link: what a function asks of its agent, and what it logs, goes out here.

Knows frames and the port; must not know how handlers are called or results mapped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from time import monotonic
from typing import Any

from edgehost.engine import frames
from edgehost.engine.frames import encode
from edgehost.engine.port import Port
from edgehost.engine.redaction import Redaction
from edgehost.event import Event as WireEvent
from edgehost.event import Response
from edgehost.sdk.logger import LEVELS

_LOG_AGE_S = 0.005
"""Lines of a long event appear while it runs; lines that come faster share a system call."""
_CALL_LOGS_MAX = 4096
"""Bytes of `X-Nuclio-Logs` (handler contract, "Status codes of the HTTP trigger")."""
_NONE = 100
"""Above every level: an unknown name of a level gets no records."""


class CallLog:
    """The log records of one HTTP call that asked for them with `X-Nuclio-Log-Level`; JSON that fits into a header."""

    def __init__(self, level: str) -> None:
        self.level = {**LEVELS, "warn": LEVELS["warning"]}.get(level.lower(), _NONE)
        self._records: list[dict[str, Any]] = []

    def add(self, record: frames.Record) -> None:
        if LEVELS[record.level] >= self.level:
            line = {"level": record.level, "message": record.message, "time": int(record.time * 1000)}
            self._records.append({**line, "with": record.fields} if record.fields else line)

    def header(self) -> str:
        """The records as JSON, the newest left out until it fits."""
        while self._records:
            text = json.dumps(self._records, default=str)
            if len(text) <= _CALL_LOGS_MAX:
                return text
            self._records.pop()
        return "[]"


class Gateway:
    """One worker's link to its agent. `current` gives call number and id of the event being handled."""

    def __init__(self, port: Port, level: str, secrets: dict[str, str | bytes]) -> None:
        self._port = port
        self.secrets = secrets
        self.redaction = Redaction(secrets.values())
        self._asks = 0
        self.level = LEVELS[level]
        self.current: Callable[[], tuple[int, str]] = lambda: (0, "")
        self.call_logs: dict[int, CallLog] = {}

    def log(self, level: str, message: str, fields: dict[str, Any], event_id: str | None = None) -> None:
        call, current_id = self.current()
        message, fields = self.redaction.text(message), self.redaction.fields(fields)
        record = frames.Record(level, message, fields, current_id if event_id is None else event_id, time.time())
        if call in self.call_logs:
            self.call_logs[call].add(record)
        if LEVELS[level] < self.level:
            return  # made for the caller alone
        self._port.write(frames.LOG, call, encode(record))
        self._port.publish()  # the last words of a handler that ends its process are worth most
        self._port.flush_if_older(monotonic(), _LOG_AGE_S)

    def call(self, function: str, event: WireEvent, timeout_s: float | None) -> Response:
        self._asks += 1
        number = self._port.asked = self._asks
        self._port.write(frames.CALL, number, encode(frames.Ask(function, event, timeout_s)))
        self._port.flush()
        end = None if timeout_s is None else monotonic() + timeout_s
        try:
            while number not in self._port.responses:
                if not self._port.receive(None if end is None else end - monotonic()):
                    raise TimeoutError(f"function {function!r} gave no answer within {timeout_s:g} s")
            return self._port.responses.pop(number)
        finally:
            self._port.asked = 0

    def publish(self, output: str, event: WireEvent) -> None:
        self._port.write(frames.PUBLISH, self.current()[0], encode(frames.Publication(output, event)))

    def acknowledge(self, call: int) -> None:
        self._port.write(frames.ACK, call, b"")
        self._port.flush_if_older(monotonic(), _LOG_AGE_S)
