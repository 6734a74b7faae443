"""A worker for plain functions and generators: one event after the other, in the main thread, with no event loop running."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from time import monotonic
from typing import Any

from edgehost.engine import frames
from edgehost.engine.answering import ANSWER_AGE_S, PLAIN, WHOLE, Item, Worker, about
from edgehost.engine.frames import encode
from edgehost.engine.gateway import Gateway
from edgehost.engine.port import AgentGoneError, Port
from edgehost.sdk import answer
from edgehost.sdk.program import Program


class SyncWorker(Worker):
    """Handles its inbox in order. A handler may call `asyncio.run`: no loop is running."""

    def __init__(self, port: Port, gateway: Gateway, program: Program, permanent: tuple[str, ...]) -> None:
        super().__init__(port, gateway, program, permanent)
        self._call = 0
        self._event_id = ""
        self._function = program.handle
        gateway.current = lambda: (self._call, self._event_id)

    def run(self) -> int:
        """Work until STOP or the agent is gone; gives the exit status."""
        port, inbox = self.port, self.port.inbox
        while True:
            while inbox:
                kind, call, deadline, item = inbox.popleft()
                if kind <= frames.BATCH:
                    self._handle(call, deadline, item)
                elif kind == frames.DRAIN:
                    self._callback(self.program.on_drain)
                    port.write(frames.DRAINED, 0, b"")
                else:
                    self._callback(self.program.on_terminate)
                    port.flush()
                    return 0
            port.flush()
            port.receive()

    def _handle(self, call: int, deadline: float, item: Item) -> None:
        started = monotonic()
        if not self.begin(call, deadline, started, item):
            return
        self._call = call
        self._event_id, body = about(item)
        try:
            result = self._function(self.enter(call, deadline, item))
            if type(result) not in PLAIN and not isinstance(item, list) and answer.is_stream(result):
                self._send_stream(call, result)
            else:
                self.reply(call, result, item)
        except AgentGoneError:
            raise
        except SystemExit as error:
            self.exits(call, error, item)
            raise
        except BaseException as error:
            self.fail(call, error, item)
        now = self.leave(call, started, body)
        self._call, self._event_id = 0, ""
        self.port.flush_if_older(now, ANSWER_AGE_S)

    def _send_stream(self, call: int, result: Any) -> None:
        port = self.port
        items = answer.open_stream(result)
        port.windows[call] = frames.STREAM_WINDOW
        end = WHOLE
        try:
            port.answer(frames.STREAM, call, next(items))  # type: ignore[arg-type]  # the first item is the head
            port.flush()
            while self._may_send(call) and (chunk := next(items, None)) is not None:
                port.windows[call] -= 1
                port.write(frames.CHUNK, call, encode(chunk))
                port.flush()
        except AgentGoneError:
            raise
        except Exception as error:
            end = self.broken_off(error)
        finally:
            items.close()
            del port.windows[call]
            port.cancelled.discard(call)
        port.write(frames.END, call, encode(end))

    def _may_send(self, call: int) -> bool:
        """Wait until the reader has room for one more chunk; False if it went away."""
        port = self.port
        while port.windows[call] == 0 and call not in port.cancelled:
            port.receive()
        return call not in port.cancelled

    def _callback(self, callback: Callable[[], Any]) -> None:
        try:
            result = callback()
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except Exception as error:
            self.trouble("a callback raised", error)
