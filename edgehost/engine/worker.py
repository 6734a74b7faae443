"""What runs in a worker process: load the function, then take events from the port, call the handler and write the answers.

`SyncWorker` handles one event at a time with no event loop running; `AsyncWorker` runs a loop and holds up to `concurrency`
events.
Must not know queues, policies or other workers. Everything here ends with the process: `os._exit` is the only way out.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from time import monotonic
from typing import Any

from edgehost.engine import frames
from edgehost.engine.arena import map_other, map_own
from edgehost.engine.frames import encode
from edgehost.engine.port import AgentGoneError, Port
from edgehost.engine.spec import WorkerSpec
from edgehost.engine.traces import trace
from edgehost.event import Event as WireEvent
from edgehost.event import Response, failure
from edgehost.sdk import answer
from edgehost.sdk.answer import to_response
from edgehost.sdk.event import Event, finish
from edgehost.sdk.lines import unfinished
from edgehost.sdk.logger import LEVELS, capture_output
from edgehost.sdk.program import Program

LOG_AGE_S = 0.005
"""Lines of a long event appear while it runs."""
ANSWER_AGE_S = 50e-6
"""Answers leave in bursts of about this much work: the agent takes one while the worker makes the next."""
_PEAK_DECAY = 0.98
"""Per event: after a slow one, about 350 quick ones bring the credit back from one to sixty-four."""
_PLAIN = frozenset({bytes, str, dict, list})
"""Results that are neither a stream nor a Response: nearly all."""
_CALL_LOGS_MAX = 4096
"""Bytes of `X-Nuclio-Logs` (handler contract, "Status codes of the HTTP trigger")."""

_KEPT_VIEW = "the handler kept a view of event.body after its answer; its bytes change under it. Copy it: bytes(event.body)"

Load = Callable[[WorkerSpec, Any], Program]


class CallLog:
    """The log records of one HTTP call that asked for them with `X-Nuclio-Log-Level`; JSON that fits into a header."""

    def __init__(self, level: str) -> None:
        self.level = {**LEVELS, "warn": LEVELS["warning"]}.get(level.lower(), 100)
        self._records: list[dict[str, Any]] = []

    def add(self, record: frames.Record) -> None:
        if LEVELS[record.level] >= self.level:
            line = {"level": record.level, "message": record.message, "time": int(record.time * 1000)}
            self._records.append({**line, "with": record.fields} if record.fields else line)

    def header(self) -> str:
        import json

        while self._records:
            text = json.dumps(self._records, default=str)
            if len(text) <= _CALL_LOGS_MAX:
                return text
            self._records.pop()
        return "[]"


class Gateway:
    """The worker's edgehost.sdk.link.Link: what a context asks of the agent goes out through the port."""

    def __init__(self, port: Port, level: str) -> None:
        self._port = port
        self.level = LEVELS[level]
        self._asks = 0
        self.current: Callable[[], tuple[int, str]] = lambda: (0, "")
        """Call number and id of the event being handled."""
        self.call_logs: dict[int, CallLog] = {}

    def log(self, level: str, message: str, fields: dict[str, Any], event_id: str | None = None) -> None:
        call, current_id = self.current()
        record = frames.Record(level, message, fields, current_id if event_id is None else event_id, time.time())
        if call in self.call_logs:
            self.call_logs[call].add(record)
        if LEVELS[level] < self.level:
            return  # made for the caller alone
        self._port.write(frames.LOG, call, encode(record))
        self._port.publish()  # the last words of a handler that ends its process are worth most
        self._port.flush_if_older(monotonic(), LOG_AGE_S)

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
        self._port.flush_if_older(monotonic(), LOG_AGE_S)


class Worker:
    """What both kinds of worker share: turning results into frames."""

    def __init__(self, port: Port, gateway: Gateway, program: Program, context: Any) -> None:
        self.port = port
        self.gateway = gateway
        self.program = program
        self.context = context

    def reply(self, call: int, result: Any) -> None:
        """Write the answer to one event. A result that cannot be sent becomes a failure that says so."""
        try:
            response = to_response(result)
            if self.gateway.call_logs and call in self.gateway.call_logs:
                response = self._with_logs(call, response)
            held = type(result) not in _PLAIN and answer.holds_ack(result)
            self.port.answer(frames.ANSWER_HELD if held else frames.ANSWER, call, response)
        except AgentGoneError:
            raise
        except Exception as error:
            self.fail(call, f"the answer cannot be sent: {type(error).__name__}: {error}", error)

    def fail(self, call: int, message: str, error: BaseException, code: str = "raised") -> None:
        """Answer an event with a failure; its traceback goes to the log, and to the caller only with `debug = true`."""
        self.gateway.log("error", message, {"traceback": trace(error)})
        text = trace(error) if getattr(self.context, "debug", False) else message
        response = failure(code, text.encode("utf-8", "replace").decode())
        if call in self.gateway.call_logs:
            response = self._with_logs(call, response)
        self.port.answer(frames.ANSWER, call, response)

    def open_call_log(self, call: int, level: str) -> None:
        """Keep this call's records for its caller, also those below the function's own level."""
        log = self.gateway.call_logs[call] = CallLog(level)
        self._set_level(min(log.level, self.gateway.level))

    def close_call_log(self, call: int) -> None:
        """The call is over."""
        if self.gateway.call_logs.pop(call, None) is not None and not self.gateway.call_logs:
            self._set_level(self.gateway.level)

    def _set_level(self, level: int) -> None:
        logging.getLogger().setLevel(level)
        logger = getattr(self.context, "logger", None)
        if logger is not None:
            logger.threshold = level

    def _with_logs(self, call: int, response: Response) -> Response:
        headers = {**response.headers, "X-Nuclio-Logs": self.gateway.call_logs[call].header()}
        return Response(response.status, response.content_type, headers, response.body, response.code, response.event_id)

    def reply_batch(self, call: int, result: Any, events: list[Event]) -> None:
        try:
            self.port.write(frames.ANSWERS, call, encode(answer.batch_responses(result, events)))
        except AgentGoneError:
            raise
        except Exception as error:
            self.fail_batch(call, error, events)

    def begin(self, call: int, deadline: float, now: float, batch: list[Event] | None = None) -> bool:
        """Whether to handle this event (or batch): not if the agent has taken it back, and not if it waited too long."""
        if not self.port.begin():
            self.port.write(frames.SKIPPED, call, b"")
            return False
        if now <= deadline:
            return True
        late = failure("no_worker", "no worker was free in time")
        if batch is None:
            self.port.answer(frames.ANSWER, call, late)
        else:
            self.port.write(frames.ANSWERS, call, encode([late] * len(batch)))
        return False

    def fail_batch(self, call: int, error: BaseException, events: list[Event], code: str = "raised") -> None:
        """A raise gives every member the failure (handler contract, "Batching")."""
        message = describe(error) if code == "raised" else "the handler did not answer before its deadline"
        self.gateway.log("error", message, {"traceback": trace(error)})
        self.port.write(frames.ANSWERS, call, encode([failure(code, message, event.id) for event in events]))


def describe(error: BaseException) -> str:
    """An exception as one line for a caller: its text, or its type where it has none."""
    return str(error) or type(error).__name__


def wants_logs(event: Event) -> str:
    """The log level an HTTP caller asked for with `X-Nuclio-Log-Level` or `X-Edgehost-Log-Level`; empty for none."""
    headers = event.headers
    return headers.get("X-Nuclio-Log-Level") or headers.get("X-Edgehost-Log-Level") or ""


class SyncWorker(Worker):
    """One event after the other in the main thread, with no event loop running: a handler may call `asyncio.run`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._call = 0
        self._event_id = ""
        self._function = self.program.handle
        self.gateway.current = lambda: (self._call, self._event_id)

    def run(self) -> int:
        """Work until STOP or the agent is gone; gives the exit status."""
        port, inbox = self.port, self.port.inbox
        while True:
            while inbox:
                kind, call, deadline, event = inbox.popleft()
                if kind == frames.EVENT:
                    self._handle(call, deadline, event)
                elif kind == frames.BATCH:
                    self._handle_batch(call, deadline, event)
                elif kind == frames.DRAIN:
                    self._callback(self.program.on_drain)
                    port.write(frames.DRAINED, 0, b"")
                else:
                    self._callback(self.program.on_terminate)
                    port.flush()
                    return 0
            port.flush()
            port.receive()

    def _handle(self, call: int, deadline: float, event: Event) -> None:
        started = monotonic()
        if not self.begin(call, deadline, started):
            return
        self._call, self._event_id = call, event.id
        context = self.context
        context.deadline = deadline
        if context.trigger is not event.trigger:
            context.trigger = event.trigger
        if event.headers and (level := wants_logs(event)):
            self.open_call_log(call, level)
        event._call = call
        body = event.body
        try:
            result = self._function(finish(event))
            if type(result) not in _PLAIN and answer.is_stream(result):
                self._send_stream(call, result)
            else:
                self.reply(call, result)
        except AgentGoneError:
            raise
        except SystemExit as error:
            self.fail(call, f"the handler ended its worker with sys.exit({error.code!r})", error, "worker_died")
            self.port.flush()
            raise
        except BaseException as error:
            self.fail(call, describe(error), error)
        self._end(started, body)

    def _handle_batch(self, call: int, deadline: float, events: list[Event]) -> None:
        started = monotonic()
        if not self.begin(call, deadline, started, events):
            return
        self._call, self._event_id = call, events[0].id
        self.context.deadline = deadline
        self.context.trigger = events[0].trigger
        for event in events:
            event._call = call
        try:
            self.reply_batch(call, self.program.handle([finish(event) for event in events]), events)
        except (AgentGoneError, SystemExit):
            raise
        except BaseException as error:
            self.fail_batch(call, error, events)
        self._end(started, None)

    def _end(self, started: float, body: Any) -> None:
        """After every event: whole lines of print leave, a borrowed view ends, and the service time is known."""
        if unfinished:
            end_lines()
        if type(body) is memoryview:
            release(body, self.gateway)
        if self.gateway.call_logs:
            self.close_call_log(self._call)
        port = self.port
        now = monotonic()
        spent = now - started
        port.busy_s += spent
        port.peak_s = spent if spent > port.peak_s else port.peak_s * _PEAK_DECAY
        self._call, self._event_id = 0, ""
        port.flush_if_older(now, ANSWER_AGE_S)

    def _send_stream(self, call: int, result: Any) -> None:
        port = self.port
        items: Iterator[Any] = answer.open_stream(result)
        port.windows[call] = frames.STREAM_WINDOW
        reason = ""
        try:
            port.answer(frames.STREAM, call, next(items))
            port.flush()
            while port.windows[call] >= 0:
                while port.windows[call] == 0 and call not in port.cancelled:
                    port.receive()
                if call in port.cancelled:
                    break
                chunk = next(items, None)
                if chunk is None:
                    break
                port.windows[call] -= 1
                port.write(frames.CHUNK, call, encode(chunk))
                port.flush()
        except AgentGoneError:
            raise
        except Exception as error:
            reason = describe(error)
            self.gateway.log("error", f"the stream broke off: {reason}", {"traceback": trace(error)})
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            del port.windows[call]
            port.cancelled.discard(call)
        port.write(frames.END, call, encode(reason))

    def _callback(self, callback: Callable[[], Any]) -> None:
        try:
            result = callback()
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except Exception as error:
            self.gateway.log("error", f"a callback raised: {describe(error)}", {"traceback": trace(error)})


class AsyncWorker(Worker):
    """Handlers that are coroutines: one task per event, `concurrency` at once."""

    def __init__(self, port: Port, gateway: Gateway, program: Program, context: Any, concurrency: int) -> None:
        super().__init__(port, gateway, program, context)
        self._concurrency = concurrency
        import contextvars

        self._current: contextvars.ContextVar[tuple[int, str]] = contextvars.ContextVar("edgehost_event", default=(0, ""))
        self.gateway.current = self._current.get
        self._loop = asyncio.get_event_loop()
        self._stopped: asyncio.Future[int] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._more = asyncio.Event()

    def run(self) -> int:
        """Work until STOP or the agent is gone; gives the exit status."""
        self._loop.add_reader(self.port.fileno(), self._readable)
        self.port.flush()
        return self._loop.run_until_complete(self._stopped)

    def _readable(self) -> None:
        try:
            self.port.receive()
            self._take()
        except AgentGoneError as error:
            self._stopped.set_exception(error)

    def _take(self) -> None:
        """Begin what may begin. Called again when an event is over, or a blocking call to the agent has received more."""
        self._more.set()
        inbox = self.port.inbox
        while inbox and len(self._tasks) < self._concurrency:
            kind, call, deadline, event = inbox.popleft()
            if kind == frames.EVENT:
                self._start(self._handle(call, deadline, event))
            elif kind == frames.BATCH:
                self._start(self._handle_batch(call, deadline, event))
            else:
                self._start(self._end_with(kind))
        self.port.flush_if_older(monotonic(), ANSWER_AGE_S if inbox else 0.0)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._stopped.done():
            self._stopped.set_exception(error)
            return
        # A blocking call inside the task may have left frames in the inbox.
        self._loop.call_soon(self._take)

    async def _handle(self, call: int, deadline: float, event: Event) -> None:
        started = monotonic()
        if not self.begin(call, deadline, started):
            return
        self._current.set((call, event.id))
        self.context.deadline = deadline
        self.context.trigger = event.trigger
        if event.headers and (level := wants_logs(event)):
            self.open_call_log(call, level)
        event._call = call
        body = event.body
        task = asyncio.current_task()
        assert task is not None
        alarm = self._loop.call_at(deadline, task.cancel)
        try:
            result = self.program.handle(finish(event))
            if inspect.isawaitable(result):
                result = await result
            if answer.is_stream(result):
                alarm.cancel()
                await self._send_stream(call, result)
            else:
                self.reply(call, result)
        except (AgentGoneError, SystemExit):
            raise
        except asyncio.CancelledError as error:
            late = monotonic() >= deadline
            message = "the handler did not answer before its deadline" if late else "the handler was cancelled"
            self.fail(call, message, error, "timeout" if late else "raised")
        except BaseException as error:
            self.fail(call, describe(error), error)
        finally:
            alarm.cancel()
        end_lines()
        self.close_call_log(call)
        if type(body) is memoryview:
            release(body, self.gateway)
        self._end(started)

    def _end(self, started: float) -> None:
        port = self.port
        spent = monotonic() - started
        port.busy_s += spent
        port.peak_s = spent if spent > port.peak_s else port.peak_s * _PEAK_DECAY
        port.publish()  # the answer counts from now on, whatever the other events do to this process

    async def _handle_batch(self, call: int, deadline: float, events: list[Event]) -> None:
        started = monotonic()
        if not self.begin(call, deadline, started, events):
            return
        self._current.set((call, events[0].id))
        self.context.deadline = deadline
        self.context.trigger = events[0].trigger
        for event in events:
            event._call = call
        try:
            result = self.program.handle([finish(event) for event in events])
            if inspect.isawaitable(result):
                result = await asyncio.wait_for(result, max(0.0, deadline - monotonic()))
            self.reply_batch(call, result, events)
        except (AgentGoneError, SystemExit):
            raise
        except BaseException as error:
            late = isinstance(error, asyncio.TimeoutError) and monotonic() >= deadline
            self.fail_batch(call, error, events, "timeout" if late else "raised")
        end_lines()
        self._end(started)

    async def _send_stream(self, call: int, result: Any) -> None:
        port = self.port
        items: AsyncGenerator[Any, None] = answer.open_async_stream(result)
        port.windows[call] = frames.STREAM_WINDOW
        reason = ""
        try:
            port.answer(frames.STREAM, call, await items.__anext__())
            port.flush()
            while True:
                while port.windows[call] == 0 and call not in port.cancelled:
                    self._more.clear()
                    await self._more.wait()
                if call in port.cancelled:
                    break
                chunk = await anext(items, None)
                if chunk is None:
                    break
                port.windows[call] -= 1
                port.write(frames.CHUNK, call, encode(chunk))
                port.flush()
        except AgentGoneError:
            raise
        except Exception as error:
            reason = describe(error)
            self.gateway.log("error", f"the stream broke off: {reason}", {"traceback": trace(error)})
        finally:
            await items.aclose()
            del port.windows[call]
            port.cancelled.discard(call)
        port.write(frames.END, call, encode(reason))

    async def _end_with(self, kind: int) -> None:
        """DRAIN and STOP wait for the events begun before them."""
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others)
        callback = self.program.on_drain if kind == frames.DRAIN else self.program.on_terminate
        try:
            result = callback()
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            self.gateway.log("error", f"a callback raised: {describe(error)}", {"traceback": trace(error)})
        if kind == frames.DRAIN:
            self.port.write(frames.DRAINED, 0, b"")
        else:
            self.port.flush()
            self._stopped.set_result(0)


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


def main(spec: WorkerSpec, sock: socket.socket, inbound: int, outbound: int, load: Load) -> int:
    """The life of a worker after the fork. Gives the exit status; the caller ends the process with it."""
    port = Port(sock, map_other(inbound), map_own(outbound), spec.body == "view")
    os.close(inbound)
    os.close(outbound)
    os.register_at_fork(after_in_child=port.disown)
    gateway = Gateway(port, spec.log_level)
    capture_output(gateway, spec.log_level)
    try:
        program = load(spec, gateway)
        worker = _prepare(port, gateway, program, spec.concurrency)
    except BaseException as error:
        reason = describe(error) if isinstance(error, Exception) else f"the module ended its worker: {error!r}"
        gateway.log("error", reason, {"traceback": trace(error)}, "")
        port.write(frames.FAILED, 0, encode(reason))
        port.flush()
        return 1
    port.write(frames.READY, 0, b"")
    port.flush()
    try:
        return worker.run()
    except AgentGoneError:
        return 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


def _prepare(port: Port, gateway: Gateway, program: Program, concurrency: int) -> SyncWorker | AsyncWorker:
    if not program.asynchronous:
        return SyncWorker(port, gateway, program, program.context)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    worker = AsyncWorker(port, gateway, program, program.context, concurrency)
    started = program.on_start()
    if inspect.isawaitable(started):
        loop.run_until_complete(started)
    return worker
