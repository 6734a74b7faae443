"""A worker for coroutines and async generators: an event loop, one task per event, `concurrency` of them at once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Coroutine
from contextvars import ContextVar
from time import monotonic
from typing import Any

from edgehost.engine import frames
from edgehost.engine.answering import ANSWER_AGE_S, LATE, WHOLE, Item, Worker, about
from edgehost.engine.frames import encode
from edgehost.engine.gateway import Gateway
from edgehost.engine.port import AgentGoneError, Port
from edgehost.sdk import answer
from edgehost.sdk.program import Program


class AsyncWorker(Worker):
    """Begins its inbox in order; a coroutine is cancelled at its deadline, which ends that event and no other."""

    def __init__(self, port: Port, gateway: Gateway, program: Program, permanent: tuple[str, ...], concurrency: int) -> None:
        super().__init__(port, gateway, program, permanent)
        self._concurrency = concurrency
        self._current: ContextVar[tuple[int, str]] = ContextVar("edgehost_event", default=(0, ""))
        gateway.current = self._current.get
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
            self.port.receive(0)  # a blocking call of a task may have eaten the bytes that woke us
            self._take()
        except AgentGoneError as error:
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        if not self._stopped.done():
            self._stopped.set_exception(error)

    def _take(self) -> None:
        """Begin what may begin. Called again when an event is over, or a blocking call to the agent has received more."""
        self._more.set()
        inbox = self.port.inbox
        while inbox and len(self._tasks) < self._concurrency:
            kind, call, deadline, item = inbox.popleft()
            self._start(self._handle(call, deadline, item) if kind <= frames.BATCH else self._end_with(kind))
        self.port.flush_if_older(monotonic(), ANSWER_AGE_S if inbox else 0.0)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._stop(error)
        else:
            # A blocking call inside the task may have left frames in the inbox.
            self._loop.call_soon(self._take)

    async def _handle(self, call: int, deadline: float, item: Item) -> None:
        started = monotonic()
        if not self.begin(call, deadline, started, item):
            return
        event_id, body = about(item)
        self._current.set((call, event_id))
        task = asyncio.current_task()
        assert task is not None
        alarm = self._loop.call_at(deadline, task.cancel)
        try:
            result = self.program.handle(self.enter(call, deadline, item))
            if inspect.isawaitable(result):
                result = await result
            alarm.cancel()
            if not isinstance(item, list) and answer.is_stream(result):
                await self._send_stream(call, result)
            else:
                self.reply(call, result, item)
        except AgentGoneError:
            raise
        except SystemExit as error:
            self.exits(call, error, item)
            raise
        except asyncio.CancelledError as error:
            late = monotonic() >= deadline
            self.fail(call, error, item, "timeout" if late else "", LATE if late else "the handler was cancelled")
        except BaseException as error:
            self.fail(call, error, item)
        finally:
            alarm.cancel()
        self.leave(call, started, body)
        self.port.publish()  # the answer counts from now on, whatever the other events do to this process

    async def _send_stream(self, call: int, result: Any) -> None:
        port = self.port
        items: AsyncGenerator[Any, None] = answer.open_async_stream(result)
        port.windows[call] = frames.STREAM_WINDOW
        end = WHOLE
        try:
            port.answer(frames.STREAM, call, await items.__anext__())
            port.flush()
            while await self._may_send(call) and (chunk := await anext(items, None)) is not None:
                port.windows[call] -= 1
                port.write(frames.CHUNK, call, encode(chunk))
                port.flush()
        except AgentGoneError:
            raise
        except Exception as error:
            end = self.broken_off(error)
        finally:
            await items.aclose()
            del port.windows[call]
            port.cancelled.discard(call)
        port.write(frames.END, call, encode(end))

    async def _may_send(self, call: int) -> bool:
        """Wait until the reader has room for one more chunk; False if it went away."""
        port = self.port
        while port.windows[call] == 0 and call not in port.cancelled:
            self._more.clear()
            await self._more.wait()
        return call not in port.cancelled

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
            self.trouble("a callback raised", error)
        if kind == frames.DRAIN:
            self.port.write(frames.DRAINED, 0, b"")
        else:
            self.port.flush()
            self._stopped.set_result(0)
