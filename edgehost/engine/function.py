"""Function: a queue with a policy in front of a pool of workers, a deadline over every event, and an orderly end.

    state      submit            ends when
    open       queue or worker   drain() is called
    draining   refused           the queue (policy `finish`) and the workers are empty, or the drain time-out passes
    closed     refused           for ever

Knows calls and pools; must not know triggers, outputs or manifests on disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from time import monotonic
from typing import TYPE_CHECKING, Literal, Protocol

from edgehost.engine import frames
from edgehost.engine.call import FOREVER, Call
from edgehost.engine.counters import Counters
from edgehost.engine.handle import WorkerHandle
from edgehost.engine.launch import Launcher, Secrets
from edgehost.engine.nursery import Breed, Nursery
from edgehost.engine.output import Throttle
from edgehost.engine.pool import Pool, choose
from edgehost.engine.spec import WorkerSpec
from edgehost.event import Event, Response, failure
from edgehost.log import BoundLogger

if TYPE_CHECKING:
    from edgehost.manifest.model import DrainPolicy, Queue

_ASYNC_GRACE_S = 0.25
"""A coroutine is cancelled by its own worker at the deadline; only a loop that hangs is killed, this much later."""
_SWEEP_S = 0.005
_DRAIN_CALLBACK_S = 0.5
"""What the drain callback gets at least, also when the events have used up the drain time-out."""
_TELL_DROPPED_S = 1.0

log = logging.getLogger("edgehost.function")


class Services(Protocol):
    """What the engine asks of the agent on behalf of a function."""

    def call(self, name: str, event: Event) -> asyncio.Future[Response]: ...

    def publish(self, output: str, event: Event) -> asyncio.Future[None]: ...

    def stores(self, output: str) -> bool:
        """Whether what goes to this output can be kept until the answer is there."""


class Function:
    """One version of a deployed function. `submit` is the way in; it never raises and its future never does."""

    def __init__(
        self,
        spec: WorkerSpec,
        workers: int,
        queue: Queue,
        start_timeout_s: float,
        nursery: Nursery,
        breed: Breed,
        services: Services,
        secrets: Secrets | None = None,
    ) -> None:
        self.spec = spec
        self.name = spec.function
        self.timeout_s = spec.timeout_s
        self.counters = Counters()
        self.log_adapter = BoundLogger(log, function=spec.function)
        self._policy = queue.policy
        self._size = queue.size
        self._loop = asyncio.get_running_loop()
        self._launcher = Launcher(spec, nursery, breed, secrets, self._output_line, self.log_adapter)
        self._services = services
        self._queue: deque[Call] = deque()
        self._state: Literal["open", "draining", "closed"] = "open"
        self._sweep_at: asyncio.TimerHandle | None = None
        self._grace_s = 0.0 if spec.concurrency == 1 else _ASYNC_GRACE_S
        self._idle: asyncio.Event = asyncio.Event()
        self._throttle = Throttle()
        self._refused_at = 0.0
        self.publishing = 0
        self.pool = Pool(workers, self._launch, self.worker_free, self._lost, start_timeout_s, self.log_adapter)
        self._workers = self.pool.workers

    async def start(self) -> None:
        """Start the workers; returns when all are ready. Raises StartError if the function cannot be loaded."""
        await self.pool.start()

    def submit(
        self, event: Event | list[Event], kept: list[frames.Publication] | None = None, patient: bool = True
    ) -> asyncio.Future[Response]:
        """Hand over an event (or a batch: the answer is then a list). The future resolves with the answer or with a failure.

        A caller with less patience than the function's own time-out cancels the future: what still waits is then not begun.
        What the handler publishes goes into `kept`, if given, as far as it can be stored. A caller who is not `patient` is
        refused where the policy `block` would have him wait for room.
        """
        now = monotonic()
        future = self._loop.create_future()
        call = Call(event, future, now, now + self.timeout_s, kept=kept)
        if self._state != "open":
            call.fail("stopped", f"function {self.name!r} is stopping")
            return future
        if self._sweep_at is None:
            self._sweep_at = self._loop.call_at(call.deadline, self._sweep)
        if not self._queue and (worker := choose(self._workers)) is not None:
            worker.give(call)
        elif len(self._queue) < self._size or (patient and self._policy == "block"):
            # `block`: the submitter awaits the answer, so it is the submitter's own limit that bounds what waits here.
            self._queue.append(call)
        else:
            self._refuse(call)
        return future

    def _refuse(self, call: Call) -> None:
        """The queue is full: the policy says which event goes."""
        if call.submitted - self._refused_at > _SWEEP_S:  # a flood is not made to look through the whole queue each time
            self._refused_at = call.submitted
            self._queue = deque(waiting for waiting in self._queue if not waiting.future.done())
            if len(self._queue) < self._size:
                self._queue.append(call)
                return
        self.counters.dropped += 1
        if self._policy == "drop_oldest":
            self._queue.popleft().fail("dropped", f"dropped for a newer event: the queue of {self.name!r} holds {self._size}")
            self._queue.append(call)
        elif self._policy == "drop_newest":
            call.fail("dropped", f"dropped: the queue of {self.name!r} holds {self._size}")
        else:
            call.fail("queue_full", f"the queue of {self.name!r} is full ({self._size} events)")

    def withdraw(self, future: asyncio.Future[Response]) -> bool:
        """Take back an event that still waits in the queue: it fails with `no_worker`, unless its caller has gone: then it only
        makes room. False if a worker has it, or it is answered.
        """
        call = next((waiting for waiting in self._queue if waiting.future is future), None)
        if call is None:
            return False
        self._queue.remove(call)
        if future.done():
            return False
        self._fail(call, "no_worker", f"no worker of {self.name!r} was free within {monotonic() - call.submitted:.1f} s")
        return True

    @property
    def last_error(self) -> str:
        """What a person should know: why workers do not start if they do not, else the newest failure."""
        return (
            self.pool.last_error
            if self.pool.state in ("failed", "crash_loop")
            else self.counters.last_error or self.pool.last_error
        )

    @property
    def queued(self) -> int:
        """Events that wait for a worker."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Events that workers hold, or whose publications are not safe yet."""
        return self.publishing + sum(len(worker.pending) for worker in self._workers)

    @property
    def overdue_s(self) -> float:
        """How long ago the deadline of an unanswered event passed; 0 if none has. More than moments: nobody sweeps any more."""
        given = (call for worker in self._workers for call in worker.pending.values())
        open_calls = (call for calls in (self._queue, given) for call in calls if not call.future.done())
        return max(0.0, monotonic() - min((call.deadline for call in open_calls), default=FOREVER))

    def worker_free(self) -> None:
        """Give what waits to whoever has room."""
        queue = self._queue
        while queue:
            worker = choose(self._workers)
            if worker is None:
                return
            call = queue.popleft()
            if not call.future.done():
                worker.give(call)
        if self._state != "open" and not self.in_flight:
            self._idle.set()

    def answered(self, call: Call, response: Response) -> None:
        """A worker answered."""
        future = call.future
        if future.done() and not future.cancelled():
            self._answered_again(call, response)
            return
        self._count(response)
        self.counters.latencies.append(monotonic() - call.submitted)
        if not future.done():
            future.set_result(response)

    def _answered_again(self, call: Call, response: Response) -> None:
        """The event has failed already, or its stream ends in a failure (a handler that calls sys.exit in its middle)."""
        if call.stream is not None and response.code:
            self.stream_ended(call, response.body.decode("utf-8", "replace"), response.code)

    def batch_answered(self, call: Call, responses: list[Response]) -> None:
        """A worker answered every event of a batch."""
        if call.future.done() and not call.future.cancelled():
            return
        for response in responses:
            self._count(response)
        self.counters.latencies.append(monotonic() - call.submitted)
        if not call.future.done():
            call.future.set_result(responses)

    def stream_ended(self, call: Call, reason: str, code: str) -> None:
        """A stream is over; with a reason it broke off, and its event counts as failed, with this code, and not as handled."""
        if call.stream is not None and not call.stream.ended:
            if reason:
                self.counters.handled -= 1
                self._count(failure(code, reason))
            call.stream.end(reason, code)

    def _count(self, response: Response) -> None:
        counters = self.counters
        if response.code:
            counters.failed += 1
            counters.last_error = response.body.decode("utf-8", "replace")
        else:
            counters.handled += 1

    def _sweep_by(self, deadline: float) -> None:
        """Look for what is overdue at `deadline`, or before."""
        if self._sweep_at is not None:
            if self._sweep_at.when() <= deadline:
                return
            self._sweep_at.cancel()
        self._sweep_at = self._loop.call_at(deadline, self._sweep)

    def _sweep(self) -> None:
        """End what is past its deadline, and look again when the next one is."""
        now = monotonic()
        self._expire_queued(now)
        for worker in list(self._workers):
            self._expire_given(worker, now)
        # A stream whose reader is behind has no deadline now; what it gets later is not before now + timeout_s.
        given = (call for worker in self._workers for call in worker.pending.values())
        dues = [call.deadline for call in self._queue]
        dues += [now + self.timeout_s if call.deadline == FOREVER else call.deadline for call in given]
        self._sweep_at = self._loop.call_at(max(min(dues), now + _SWEEP_S), self._sweep) if dues else None
        self.worker_free()

    def _expire_queued(self, now: float) -> None:
        kept: deque[Call] = deque()
        for call in self._queue:
            if call.deadline <= now:
                self._fail(call, "no_worker", f"no worker of {self.name!r} was free within {now - call.submitted:.1f} s")
            elif not call.future.done():
                kept.append(call)
        self._queue = kept

    def _expire_given(self, worker: WorkerHandle, now: float) -> None:
        if worker.overdue(now, self._grace_s):
            worker.catch_up()
        late = worker.overdue(now, self._grace_s)
        for call in worker.overdue_unbegun(now):
            self._fail(call, "no_worker", f"no worker of {self.name!r} was free within {now - call.submitted:.1f} s")
            call.deadline = FOREVER
        for call in late:
            call.deadline = FOREVER
            self._fail(
                call,
                "timeout",
                f"function {self.name!r} did not answer within {now - call.submitted:.1f} s; its worker is replaced",
            )
        if late:
            self.log_adapter.error(
                "event %s ran past its deadline; worker %d is killed",
                _event_id(late[0]),
                worker.worker_id,
                extra={"event_id": _event_id(late[0])},
            )
            worker.kill()

    def _fail(self, call: Call, code: str, message: str) -> None:
        """Settle with a failure, once: what has failed or was broken off already stays as it is."""
        if call.stream is not None:
            self.stream_ended(call, message, code)
        elif not call.future.done():
            self.counters.failed += len(call.event) if isinstance(call.event, list) else 1
            self.counters.last_error = message
            call.fail(code, message)

    def _launch(self, worker_id: int) -> Awaitable[WorkerHandle]:
        return self._launcher.launch(self._loop, self, worker_id)

    def _lost(self, worker: WorkerHandle, reason: str) -> None:
        """A worker ended: what it had begun failed, what it had not goes to the front of the queue, in order."""
        begun, unbegun = worker.take_lost()
        for call in begun:
            if self._state == "closed":
                self._fail(call, "stopped", f"function {self.name!r} stopped before the event was finished")
            else:
                self._fail(call, "worker_died", f"the worker of {self.name!r} died while it handled the event: {reason}")
        self.requeue(unbegun)

    def requeue(self, calls: list[Call]) -> None:
        """Events that were given to a worker and not begun go to the front of the queue, in order."""
        self._queue.extendleft(reversed([call for call in calls if not call.future.done()]))
        self.worker_free()

    def stuck(self, worker: WorkerHandle) -> None:
        """A worker sits in one event while others wait behind it: whoever has room takes them over."""
        if choose([other for other in self._workers if other is not worker]) is not None:
            self.requeue(worker.recall())

    def call_function(self, name: str, event: Event) -> asyncio.Future[Response]:
        return self._services.call(name, event)

    def publish(self, output: str, event: Event) -> asyncio.Future[None]:
        return self._services.publish(output, event)

    def stores(self, output: str) -> bool:
        return self._services.stores(output)

    def log(self, record: frames.Record) -> None:
        """A log line of the function, with its event's id."""
        if self._allowed():
            level = logging.getLevelName(record.level.upper())
            self.log_adapter.log(level, "%s", record.message, extra={"event_id": record.event_id, "fields": record.fields})

    def _output_line(self, text: str) -> None:
        if self._allowed():
            self.log_adapter.info("%s", text)

    def _allowed(self) -> bool:
        if not self._throttle.allow():
            if self._throttle.dropped == 1:
                self._loop.call_later(_TELL_DROPPED_S, self._tell_dropped)
            return False
        return True

    def _tell_dropped(self) -> None:
        if dropped := self._throttle.take_dropped():
            self.log_adapter.warning(
                "%d log lines of the function were dropped: it writes faster than a log can be read", dropped
            )

    async def drain(self, policy: DrainPolicy, timeout_s: float, successor: Function | None = None) -> None:
        """Take no more events and finish by `policy`; what is unfinished after `timeout_s` seconds is answered with a failure.

        `finish` handles all that waits, `inflight` only what workers hold, `handover` gives what waits to `successor`.
        """
        self._state = "draining"
        end = monotonic() + timeout_s
        waiting = [call for call in self._queue if not call.future.done()]
        if policy != "finish":
            self._queue.clear()
        if policy == "handover" and successor is not None:
            successor.adopt(waiting)
        elif policy != "finish":
            for call in waiting:
                call.fail("stopped", f"function {self.name!r} is stopping")
        if self._queue or self.in_flight:
            try:
                await asyncio.wait_for(self._idle.wait(), timeout_s)
            except asyncio.TimeoutError:
                self.log_adapter.warning(
                    "%d events were unfinished after %g s (drain_timeout)", self.queued + self.in_flight, timeout_s
                )
        try:
            await asyncio.wait_for(self.pool.drain(), max(_DRAIN_CALLBACK_S, end - monotonic()))
        except asyncio.TimeoutError:
            self.log_adapter.warning("the drain callback did not return within %g s", timeout_s)

    def adopt(self, calls: list[Call]) -> None:
        """Take over what waited for the version before, in order, ahead of newer events; deadlines stay."""
        self._queue.extendleft(reversed(calls))
        if calls:
            self._sweep_by(min(call.deadline for call in calls))
        self.worker_free()

    async def close(self, within_s: float = 5.0) -> None:
        """End the workers. Everything still unanswered gets a failure."""
        self._state = "closed"
        await self.pool.stop(within_s)
        for call in self._queue:
            call.fail("stopped", f"function {self.name!r} is stopping")
        self._queue.clear()
        if self._sweep_at is not None:
            self._sweep_at.cancel()


def _event_id(call: Call) -> str:
    return call.event.id if isinstance(call.event, Event) else call.event[0].id
