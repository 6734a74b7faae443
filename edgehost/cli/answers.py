"""Shows a function's answer: for a person the body on standard output and the rest on standard error, for a machine one object.

Takes the replies as they come off the wire, so that a streamed answer is seen while it streams.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

import msgspec

from edgehost.cli import terminal
from edgehost.cli.exits import FAILED, answer_code
from edgehost.control.protocol import Answer, Chunk, Done

LOGS_HEADER = "X-Nuclio-Logs"
"""Where a call's own log records come back when it asked for them (handler contract, "Status codes of the HTTP trigger")."""


class LogRecord(msgspec.Struct, frozen=True, omit_defaults=True, rename={"fields": "with"}):
    """One log record of a call, in the form of the LOGS_HEADER; `time` is Unix time in milliseconds."""

    level: str
    message: str
    time: int
    fields: dict[str, Any] = {}


class Outcome(msgspec.Struct, frozen=True):
    """What `--json` prints; either `body` (UTF-8 text) or `body_base64` is there."""

    status: int
    headers: dict[str, str]
    content_type: str
    body: str | msgspec.UnsetType
    body_base64: bytes | msgspec.UnsetType
    duration_ms: float
    logs: list[LogRecord]
    code: str | msgspec.UnsetType
    """Names the failure; absent when the handler answered."""
    error: str | msgspec.UnsetType
    """Why a streamed answer broke off; absent when it is whole."""


def show(function: str, replies: Iterable[Answer | Chunk | Done], logs: list[LogRecord] | None = None) -> int:
    """Print an answer for a person; what it logged first. Returns the exit code."""
    answer = Answer(0)
    code, spoken = FAILED, bytearray()
    for reply in replies:
        if isinstance(reply, Answer):
            answer, logs = reply, _logs_of(reply) if logs is None else logs
            code = answer_code(answer.status, answer.code)
            _print_logs(logs)
        elif isinstance(reply, Done):
            return _conclude(function, answer, bytes(spoken), reply.error, code)
        elif answer.code:
            spoken += reply.data
        else:
            _write(reply.data)
            spoken[:] = reply.data[-1:]
    return FAILED


def show_json(replies: Iterable[Answer | Chunk | Done], logs: list[LogRecord] | None = None) -> int:
    """Print an answer as one JSON object. `logs` None takes what came with the answer. Returns the exit code."""
    answer, done, body = Answer(0), Done(0.0), bytearray()
    for reply in replies:
        if isinstance(reply, Answer):
            answer = reply
        elif isinstance(reply, Chunk):
            body += reply.data
        else:
            done = reply
    terminal.print_json(outcome(answer, bytes(body), done, _logs_of(answer) if logs is None else logs))
    return FAILED if done.error else answer_code(answer.status, answer.code)


def outcome(answer: Answer, body: bytes, done: Done, logs: list[LogRecord]) -> Outcome:
    """The whole answer as one value."""
    text = _as_text(body)
    return Outcome(
        status=answer.status,
        headers={name: value for name, value in answer.headers.items() if name != LOGS_HEADER},
        content_type=answer.content_type,
        body=msgspec.UNSET if text is None else text,
        body_base64=body if text is None else msgspec.UNSET,
        duration_ms=round(done.duration_ms, 3),
        logs=logs,
        code=answer.code or msgspec.UNSET,
        error=done.error or msgspec.UNSET,
    )


def _as_text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _logs_of(answer: Answer) -> list[LogRecord]:
    """The records that came with the answer; none if it has none, or a handler made up that header itself."""
    try:
        return msgspec.json.decode(answer.headers.get(LOGS_HEADER, "[]"), type=list[LogRecord])
    except msgspec.MsgspecError:
        return []


def _print_logs(logs: list[LogRecord]) -> None:
    for record in logs:
        clock = datetime.fromtimestamp(record.time / 1000, timezone.utc).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = " ".join(f"{key}={value}" for key, value in record.fields.items() if key != "traceback")
        print(f"{clock} {record.level:<5} {record.message} {fields}".rstrip(), file=sys.stderr)
        if trace := str(record.fields.get("traceback", "")).rstrip():
            print(textwrap.indent(trace, "    "), file=sys.stderr)


def _write(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _conclude(function: str, answer: Answer, spoken: bytes, error: str, code: int) -> int:
    """After the body: a failure's own words, a status that is no success, a stream that broke."""
    if answer.code:
        terminal.note(f"{function} failed ({answer.code}, {answer.status}): {spoken.decode('utf-8', 'replace').strip()}")
        return code
    if sys.stdout.isatty() and spoken and spoken != b"\n":
        _write(b"\n")
    if error:
        terminal.note(f"{function} broke off its answer: {error}")
        return FAILED
    if code:
        terminal.note(f"{function} answered {answer.status}")
    return code
