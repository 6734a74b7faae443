"""The workers of one function: how many there should be, which one gets the next event, and how a dead one is replaced.

    worker ends                          next
    after it answered something          at once
    twice in a row without an answer     after a growing delay; three times in a row: the pool is in `crash_loop`
    while it loads                       once at once, then after a growing delay; the pool is `failed` until one loads

One task per worker keeps it alive: start, wait for its end, wait, again. Knows handles; must not know queues or policies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from edgehost.backoff import Backoff
from edgehost.engine.handle import WorkerHandle
from edgehost.errors import StartError

State = Literal["starting", "ready", "degraded", "crash_loop", "failed", "stopped"]

_FIRST_DELAY_S = 0.1
_MOST_DELAY_S = 30.0
_CRASH_LOOP = 3
_STOP_S = 5.0

Launch = Callable[[int], Awaitable[WorkerHandle]]
Lost = Callable[[WorkerHandle, str], None]


def restart_delay_s(answered: int, deaths: int, backoff: Backoff) -> float:
    """How long to wait before a dead worker is replaced. `deaths` counts those in a row that answered nothing, this one
    included.
    """
    if answered:
        return 0.0
    return 0.0 if deaths < 2 else backoff.next()


def choose(workers: Sequence[WorkerHandle]) -> WorkerHandle | None:
    """The worker with the fewest events among those with room; None if none has."""
    best = None
    fewest = 1 << 30
    for worker in workers:
        held = len(worker.pending)
        if held < worker.credit and held < fewest:
            best, fewest = worker, held
    return best


class Pool:
    """`wanted` workers, kept alive. `up()` is told when one more can take events, `lost(handle, reason)` of each that ended,
    before it is replaced.
    """

    def __init__(
        self,
        wanted: int,
        launch: Launch,
        up: Callable[[], None],
        lost: Lost,
        start_timeout_s: float,
        log: logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._wanted = wanted
        self._launch = launch
        self._up = up
        self._lost = lost
        self._start_timeout_s = start_timeout_s
        self._log = log
        self._tasks: list[asyncio.Task[None]] = []
        self._deaths = [0] * wanted
        self._closing = False
        self.came_up = asyncio.Event()
        """Set once a worker has loaded the function."""
        self.workers: list[WorkerHandle] = []
        self.last_error = ""

    @property
    def state(self) -> State:
        """What the pool is, derived from its workers."""
        ready = self.ready
        if self._closing:
            return "stopped"
        if ready == self._wanted:
            return "ready"
        if max(self._deaths) >= _CRASH_LOOP:
            return "crash_loop" if self.came_up.is_set() else "failed"
        if not self.came_up.is_set():
            return "failed" if self.last_error else "starting"
        return "degraded"

    @property
    def ready(self) -> int:
        """How many workers can take events."""
        return sum(worker.state == "ready" for worker in self.workers)

    async def start(self) -> None:
        """Start all workers; returns when every one is ready. Raises StartError with the first one's reason (the pool keeps
        trying).
        """
        first: list[asyncio.Future[str]] = []
        for worker_id in range(self._wanted):
            tried: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            first.append(tried)
            self._tasks.append(asyncio.create_task(self._keep(worker_id, tried)))
        for reason in await asyncio.gather(*first):
            if reason:
                raise StartError(reason)

    async def _keep(self, worker_id: int, tried: asyncio.Future[str]) -> None:
        """Supervise one place, and tell `tried` how its first start went in any case."""
        try:
            await self._supervise(worker_id, tried)
        except Exception as error:  # a mistake of our own: say so, or the function would just be missing a worker
            self._log.exception("worker %d is not supervised any more", worker_id)
            self.last_error = f"{type(error).__name__}: {error}"
            if not tried.done():
                tried.set_result(self.last_error)
        finally:
            if not tried.done():
                tried.set_result("the function was stopped while it started")

    async def _supervise(self, worker_id: int, tried: asyncio.Future[str]) -> None:
        """The one supervise loop: a worker for this place, for as long as the pool is open."""
        backoff = Backoff(_FIRST_DELAY_S, _MOST_DELAY_S)
        while not self._closing:
            answered, reason = await self._live(worker_id, tried)
            if self._closing:
                return
            if not tried.done():
                tried.set_result(reason)
            if answered:
                backoff.reset()
                self._deaths[worker_id] = 0
            self._deaths[worker_id] += 1
            delay_s = restart_delay_s(answered, self._deaths[worker_id], backoff)
            again = f"it is started again in {delay_s:.1f} s" if delay_s else "another takes its place"
            self._log.error("worker %d: %s; %s", worker_id, reason, again)
            await asyncio.sleep(delay_s)

    async def _live(self, worker_id: int, tried: asyncio.Future[str]) -> tuple[int, str]:
        """One worker from fork to end; gives how many events it answered, and why it ended."""
        try:
            worker = await self._launch(worker_id)
        except (StartError, OSError) as error:
            # OSError: the agent itself is out of descriptors or memory, which may pass.
            self.last_error = str(error)
            return 0, self.last_error
        except Exception as error:  # a mistake of our own, or a machine nobody thought of: that may pass too
            self._log.exception("worker %d cannot be made", worker_id)
            self.last_error = f"its worker cannot be made: {type(error).__name__}: {error}"
            return 0, self.last_error
        self.workers.append(worker)
        try:
            failure = await self._load(worker)
            if failure:
                self.last_error = failure
                await worker.ended
                return 0, failure
            self.came_up.set()
            if not tried.done():
                tried.set_result("")
            self._up()  # it may have been ready before it was in `workers`, where the function looks
            reason = await worker.ended
            if not self._closing:
                self.last_error = reason
            return worker.answered, reason
        finally:
            self.workers.remove(worker)
            if worker.ended.done():
                self._lost(worker, worker.ended.result())

    async def _load(self, worker: WorkerHandle) -> str:
        """Wait until the function is loaded; why it is not, or ''."""
        try:
            return await asyncio.wait_for(asyncio.shield(worker.ready), self._start_timeout_s)
        except asyncio.TimeoutError:
            worker.kill()
            return f"not ready within {self._start_timeout_s:g} s (start_timeout): its import or init_context takes too long"

    async def drain(self) -> None:
        """Let every ready worker run its drain callback."""
        ready = [worker for worker in self.workers if worker.state == "ready"]
        for worker in ready:
            worker.ask_drain()
        await asyncio.gather(*(worker.drained for worker in ready))

    async def stop(self, within_s: float = _STOP_S) -> None:
        """End every worker: politely, then with SIGKILL after `within_s` seconds. Returns when all are gone."""
        self._closing = True
        alive = {worker.worker_id for worker in self.workers}
        for worker in self.workers:
            worker.stop()
        for worker_id, task in enumerate(self._tasks):
            if worker_id not in alive:
                task.cancel()  # it waits for a fork or for its delay; with a worker, it ends when the worker does
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        for worker in self.workers:
            worker.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
