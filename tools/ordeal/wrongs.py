"""Carries the faults out and undoes them. What two faults cannot have at once (the agent's process, say) is locked.

Knows what each kind of fault means; must not know when one comes, or what it costs.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

import psutil

from tools.ordeal.broker import Broker
from tools.ordeal.disk import Disk
from tools.ordeal.link import Link
from tools.ordeal.schedule import POINT, Fault
from tools.ordeal.subject import Subject
from tools.ordeal.wall_clock import WallClock

T = TypeVar("T")
_READY_S = 8.0
"""So long a fault waits for the agent to be well again, so that the next one meets an agent that works."""
_REACH_S = 12.0
"""So long an agent has to reach its fault point."""
_TICK_S = 0.05


class Wrongs:
    """Everything that can be done to one agent and what it depends on."""

    def __init__(
        self,
        subject: Subject,
        broker: Broker,
        link: Link,
        disk: Disk,
        clock: WallClock,
        replay: Callable[[], Awaitable[bool]],
        say: Callable[[str], None],
    ) -> None:
        """`replay` has the agent replay a dead letter: the only way to the point of that name."""
        self.done: Counter[str] = Counter()
        """How often each kind was carried out."""
        self.unreached: Counter[str] = Counter()
        """How often the agent did not come to its fault point in time."""
        self.skipped: dict[str, str] = {}
        """Kinds that this machine does not allow, and why."""
        self.calm_since = time.monotonic()
        self.agent_in_hand = asyncio.Lock()
        self.broker_in_hand = asyncio.Lock()
        self._line_in_hand = asyncio.Lock()
        self._disk_in_hand = asyncio.Lock()
        self._active = 0
        self._subject, self._broker, self._link, self._disk, self._clock = subject, broker, link, disk, clock
        self._replay = replay
        self._say = say

    @property
    def calm(self) -> bool:
        """Whether nothing is wrong right now."""
        return self._active == 0

    async def carry_out(self, fault: Fault) -> None:
        """Do it, wait, undo it."""
        locks = self._locks(fault.kind)
        async with AsyncExitStack() as held:
            for lock in locks:
                await held.enter_async_context(lock)
            self._active += 1
            self._say(str(fault))
            try:
                done = await (self._at_point(fault) if fault.point else self._kinds[fault.kind](self, fault))
            finally:
                self._active -= 1
                self.calm_since = time.monotonic()
        if done:
            self.done[fault.kind] += 1

    def _locks(self, kind: str) -> list[asyncio.Lock]:
        """Always in the same order, so that no two faults wait for each other."""
        if kind.startswith(POINT):
            return [self.agent_in_hand, self.broker_in_hand, self._line_in_hand, self._disk_in_hand]
        if kind in ("kill-agent", "kill-worker", "kill-zygote", "stop-agent"):
            return [self.agent_in_hand]
        if kind in ("kill-broker", "outage", "stop-broker"):
            return [self.broker_in_hand]
        if kind in ("delay", "stall", "cut"):
            return [self._line_in_hand]
        return [self._disk_in_hand] if kind == "full-disk" else []

    async def _at_point(self, fault: Fault) -> bool:
        """The agent dies at a point of its own; whether it came there in time."""
        self._subject.kill()
        self._subject.start(f"{fault.point}:{int(fault.amount)}")
        deadline = time.monotonic() + _REACH_S
        if fault.point == "dead.replayed" and await settled(self._subject):
            for _ in range(int(fault.amount)):
                await self._replay()
        await _until(lambda: not self._subject.running, deadline)
        reached = not self._subject.running
        if not reached:
            self.unreached[fault.kind] += 1
            self._say(f"fault {fault.number}: {fault.point} was not reached")
            self._subject.kill()
        self._subject.start()
        await settled(self._subject)
        return reached

    async def _kill_agent(self, fault: Fault) -> bool:
        self._subject.kill()
        await asyncio.sleep(fault.hold_s)
        self._subject.start()
        await settled(self._subject)
        return True

    async def _kill_worker(self, fault: Fault) -> bool:
        return _kill_one(await in_thread(self._subject.workers), fault.number)

    async def _kill_zygote(self, fault: Fault) -> bool:
        return _kill_one(await in_thread(self._subject.zygotes), fault.number)

    async def _stop_agent(self, fault: Fault) -> bool:
        self._subject.stop(True)
        await asyncio.sleep(fault.hold_s)
        self._subject.stop(False)
        return True

    async def _kill_broker(self, fault: Fault) -> bool:
        self._broker.kill()
        await asyncio.sleep(fault.hold_s)
        self._broker.start()
        return True

    async def _outage(self, fault: Fault) -> bool:
        if fault.amount:
            await in_thread(self._broker.end)
        else:
            self._broker.kill()
        await asyncio.sleep(fault.hold_s)
        self._broker.start()
        return True

    async def _stop_broker(self, fault: Fault) -> bool:
        self._broker.stop(True)
        await asyncio.sleep(fault.hold_s)
        self._broker.stop(False)
        return True

    async def _delay(self, fault: Fault) -> bool:
        self._link.delay_s = fault.amount
        await asyncio.sleep(fault.hold_s)
        self._link.delay_s = 0.0
        return True

    async def _stall(self, fault: Fault) -> bool:
        self._link.stall()
        await asyncio.sleep(fault.hold_s)
        self._link.flow()
        return True

    async def _cut(self, fault: Fault) -> bool:
        cuts, deadline = self._link.cuts, time.monotonic() + 5.0
        self._link.cut_next = True
        await _until(lambda: self._link.cuts > cuts, deadline)
        await asyncio.sleep(fault.hold_s)
        return self._link.cuts > cuts

    async def _full_disk(self, fault: Fault) -> bool:
        if self._disk.refusal:
            self.skipped[fault.kind] = self._disk.refusal
            return False
        await in_thread(self._disk.fill)
        await asyncio.sleep(fault.hold_s)
        self._disk.empty()
        return True

    async def _turn_clock(self, fault: Fault) -> bool:
        if self._clock.refusal:
            self.skipped[fault.kind] = self._clock.refusal
            return False
        self._clock.set(fault.amount)
        return True

    _kinds = {  # noqa: RUF012 -- the one table of what each kind does
        "kill-agent": _kill_agent,
        "kill-worker": _kill_worker,
        "kill-zygote": _kill_zygote,
        "kill-broker": _kill_broker,
        "outage": _outage,
        "delay": _delay,
        "stall": _stall,
        "cut": _cut,
        "stop-agent": _stop_agent,
        "stop-broker": _stop_broker,
        "full-disk": _full_disk,
        "clock": _turn_clock,
    }


async def settled(subject: Subject, limit_s: float = _READY_S) -> bool:
    """Wait until every function and every trigger of the agent is well; False if that takes too long, or it ends."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and subject.running:
        if await in_thread(subject.ready):
            return True
        await asyncio.sleep(_TICK_S)
    return False


async def _until(condition: Callable[[], bool], deadline: float) -> None:
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 -- what is waited for is in other processes
        await asyncio.sleep(_TICK_S)


def _kill_one(processes: list[psutil.Process], number: int) -> bool:
    if not processes:
        return False
    try:
        processes[number % len(processes)].kill()
    except psutil.NoSuchProcess:
        return False
    return True


async def in_thread(work: Callable[[], T]) -> T:
    """Something that blocks, beside the loop."""
    return await asyncio.get_running_loop().run_in_executor(None, work)
