"""What both kinds of worker share: from an event to what the handler gets, and from what it gives to frames.

Knows the contract of handlers and the port; must not know in which order events are begun, or who waits for them.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

from msgspec.structs import replace

from edgehost.engine import frames
from edgehost.engine.frames import encode
from edgehost.engine.gateway import CallLog, Gateway
from edgehost.engine.permanent import is_permanent
from edgehost.engine.port import AgentGoneError, Port
from edgehost.engine.traces import trace
from edgehost.event import Response, failure
from edgehost.sdk import answer
from edgehost.sdk.answer import to_response
from edgehost.sdk.event import Event, finish
from edgehost.sdk.lines import unfinished
from edgehost.sdk.program import Program

PLAIN = frozenset({bytes, str, dict, list})
"""Results that are neither a stream nor a Response: nearly all."""
ANSWER_AGE_S = 50e-6
"""Answers leave in bursts of about this much work: the agent takes one while the worker makes the next."""
WHOLE = ("", "")
"""How a stream ends that did not break off."""
LATE = "the handler did not answer before its deadline"
_PEAK_DECAY = 0.98
"""Per event: after a slow one, about 350 quick ones bring the credit back from one to sixty-four."""
_KEPT_VIEW = "the handler kept a view of event.body after its answer; its bytes change under it. Copy it: bytes(event.body)"

Item = Event | list[Event]
"""An event, or a batch of them."""


class Worker:
    """One loaded function and its way to answer."""

    def __init__(self, port: Port, gateway: Gateway, program: Program, permanent: tuple[str, ...]) -> None:
        self.port = port
        self.gateway = gateway
        self.program = program
        self.permanent = permanent
        self.context = program.context

    def begin(self, call: int, deadline: float, now: float, item: Item) -> bool:
        """Whether to handle this: not if the agent has taken it back, and not if it waited too long."""
        if not self.port.begin():
            self.port.write(frames.SKIPPED, call, b"")
            return False
        if now > deadline:
            self._answer(call, failure("no_worker", "no worker was free in time"), item)
            return False
        return True

    def enter(self, call: int, deadline: float, item: Item) -> Item:
        """Make the context current; gives what the handler gets: the event, or the list of a batch, finished."""
        if isinstance(item, list):
            first = item[0]
            for event in item:
                event._call = call
                finish(event)
        else:
            first = item
            if item.headers and (level := wants_logs(item)):
                self._open_call_log(call, level)
            item._call = call
            finish(item)
        context = self.context
        context.deadline = deadline
        if context.trigger is not first.trigger:
            context.trigger = first.trigger
        return item

    def reply(self, call: int, result: Any, item: Item) -> None:
        """Write the answer. A result that cannot be sent becomes a failure that says so."""
        try:
            if isinstance(item, list):
                self.port.write(frames.ANSWERS, call, encode(answer.batch_responses(result, item)))
                return
            response = to_response(result)
            if self.gateway.call_logs:
                response = self._with_logs(call, response)
            held = type(result) not in PLAIN and answer.holds_ack(result)
            self.port.answer(frames.ANSWER_HELD if held else frames.ANSWER, call, response)
        except AgentGoneError:
            raise
        except Exception as error:
            self.fail(call, error, item, message=f"the answer cannot be sent: {type(error).__name__}: {error}")

    def fail(self, call: int, error: BaseException, item: Item, code: str = "", message: str = "") -> None:
        """Answer with a failure; its traceback goes to the log, and to the caller only with `debug = true`. Without a `code` the
        exception says whether another try may mend it.

        A raise fails every member of a batch (handler contract, "Batching").
        """
        message = message or describe(error)
        self._log(message, error)
        text = trace(error) if getattr(self.context, "debug", False) else message
        several = isinstance(item, list) and len(item) > 1
        self._answer(call, failure(code or self._code(error, several), self._told(text)), item)

    def exits(self, call: int, error: SystemExit, item: Item) -> None:
        """The last answer of a worker whose handler calls sys.exit."""
        self.fail(call, error, item, "worker_died", f"the handler ended its worker with sys.exit({error.code!r})")
        self.port.flush()

    def broken_off(self, error: Exception) -> tuple[str, str]:
        """How a stream ends that cannot go on."""
        self.trouble("the stream broke off", error)
        return self._told(describe(error)), self._code(error)

    def _code(self, error: BaseException, several: bool = False) -> str:
        """What came out of a batch of `several` is the fault of one event that nobody names: it condemns none of them."""
        return "permanent" if self.permanent and not several and is_permanent(error, self.permanent) else "raised"

    def _told(self, text: str) -> str:
        """`text` as it may leave the worker."""
        return sendable(self.gateway.redaction.text(text))

    def _answer(self, call: int, response: Response, item: Item) -> None:
        if isinstance(item, list):
            self.port.write(frames.ANSWERS, call, encode([replace(response, event_id=event.id) for event in item]))
        else:
            self.port.answer(frames.ANSWER, call, self._with_logs(call, response))

    def trouble(self, what: str, error: BaseException) -> None:
        """Log what went wrong outside of an answer."""
        self._log(f"{what}: {describe(error)}", error)

    def _log(self, message: str, error: BaseException) -> None:
        self.gateway.log("error", sendable(message), {"traceback": sendable(trace(error))})

    def leave(self, call: int, started: float, body: Any) -> float:
        """After every event: half lines of print leave, a borrowed view ends, the service time is known. Gives the time now."""
        if unfinished:
            end_lines()
        if type(body) is memoryview:
            release(body, self.gateway)
        if self.gateway.call_logs:
            self._close_call_log(call)
        port = self.port
        now = monotonic()
        spent = now - started
        port.busy_s += spent
        port.peak_s = spent if spent > port.peak_s else port.peak_s * _PEAK_DECAY
        return now

    def _open_call_log(self, call: int, level: str) -> None:
        """Keep this call's records for its caller, also those below the function's own level."""
        log = self.gateway.call_logs[call] = CallLog(level)
        self._set_level(min(log.level, self.gateway.level))

    def _close_call_log(self, call: int) -> None:
        if self.gateway.call_logs.pop(call, None) is not None and not self.gateway.call_logs:
            self._set_level(self.gateway.level)

    def _set_level(self, level: int) -> None:
        logging.getLogger().setLevel(level)
        logger = getattr(self.context, "logger", None)
        if logger is not None:
            logger.threshold = level

    def _with_logs(self, call: int, response: Response) -> Response:
        log = self.gateway.call_logs.get(call)
        if log is None:
            return response
        headers = {**response.headers, "X-Nuclio-Logs": log.header()}
        return Response(response.status, response.content_type, headers, response.body, response.code, response.event_id)


def about(item: Item) -> tuple[str, Any]:
    """The id that log records are marked with (a batch goes by its first event), and the body as it came (None for a batch)."""
    return (item[0].id, None) if isinstance(item, list) else (item.id, item.body)


def wants_logs(event: Event) -> str:
    """The log level an HTTP caller asked for with `X-Nuclio-Log-Level` or `X-Edgehost-Log-Level`; empty for none."""
    headers = event.headers
    return headers.get("X-Nuclio-Log-Level") or headers.get("X-Edgehost-Log-Level") or ""


def describe(error: BaseException) -> str:
    """An exception as one line for a caller: its text, or its type where it has none."""
    return str(error) or type(error).__name__


def sendable(text: str) -> str:
    """`text` without lone surrogates, which json.loads makes and no frame can carry."""
    return text.encode("utf-8", "replace").decode()


def end_lines() -> None:
    """Turn what `print` left without a newline into a log line of its own."""
    for stream in list(unfinished):
        stream.end_event()


def release(body: memoryview, gateway: Gateway) -> None:
    """End a borrowed view. A handler that keeps it (or an array over it) would read another event's bytes."""
    try:
        body.release()
    except BufferError:
        gateway.log("warning", _KEPT_VIEW, {})
