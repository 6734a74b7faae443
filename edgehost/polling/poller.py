"""Poller: reads a source on an interval, never twice at once, and goes on whatever comes of it.

    a read                         what follows
    worked                         `running`; the next is due at the next beat
    worked but for some part       `degraded` with what the read says of it; next beat
    still goes on at a beat        that beat is left out and counted (`skipped`)
    TriggerError                   `degraded` with the reason; tried again at once, then ever later (edgehost/reconnect.py)
    TryLaterError                  `degraded`; tried again when the source said so, at the earliest after a beat or a second
    any other error                as TriggerError, with a traceback in the log: the source is a plugin's code

Beats lie on the monotonic clock: no step of the wall clock moves one. Must not know what is read, or what becomes of it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from edgehost.errors import StateError, TriggerError
from edgehost.plugin import TriggerHost
from edgehost.reconnect import Reconnect
from edgehost.schedule import Look, Policy, Reading, SteadyPlan, WallPlan

Read = Callable[[], Awaitable[str]]
First = Literal["now", "random"]
"""When the first read is: at the start, or after a random part of the interval, so that a thousand devices that got their power
back together do not ask one server together."""

_FORGOTTEN_S = 0.5


class TryLaterError(TriggerError):
    """The source names the moment of the next read itself (HTTP 429 and 503)."""

    def __init__(self, reason: str, after_s: float) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Poller:
    """`read()` is one read with all that must be done before the next. It says what of it did not work, empty if all did."""

    def __init__(self, interval_s: float, first: First, read: Read, host: TriggerHost) -> None:
        wait_s = interval_s * random.random() if first == "random" else 0.0
        # The plan's first beat is one interval after its start.
        self._plan: WallPlan | SteadyPlan = SteadyPlan(interval_s, Policy("skip"), time.monotonic() + wait_s - interval_s)
        self._read = read
        self._host = host
        self._told: str | None = None
        self._again = False
        self._least_s = min(1.0, interval_s)
        """The shortest wait after a read that failed. A source that says "now" may say so for ever."""
        self._task: asyncio.Task[None] | None = None
        self._reconnect = Reconnect(self._keep, self._away, first_s=self._least_s, most_s=min(60.0, max(10.0, interval_s)))

    def start(self, name: str) -> None:
        """Begin to read, in a task of this name."""
        self._task = asyncio.create_task(self._reconnect.run(), name=name)

    async def stop(self) -> None:
        """Read no more; a read under way is cancelled."""
        while self._task is not None and not self._task.done():
            self._task.cancel()
            # Before Python 3.12 asyncio.wait_for forgets a cancellation that comes together with its result.
            await asyncio.wait({self._task}, timeout=_FORGOTTEN_S)

    def nudge(self) -> None:
        """What was away is back: read now, if the read before failed."""
        self._reconnect.nudge()

    async def _keep(self, settled: Callable[[], None]) -> None:
        """Read at every beat; raise the TriggerError of a read that failed. After one, read at once."""
        while True:
            if self._again:
                self._look()  # the beats that passed meanwhile are over; nothing was slow
            else:
                await self._beat()
            self._again = True
            try:
                trouble = await self._attempt()
            except TryLaterError as later:
                after_s = max(later.after_s, self._least_s)
                self._away(f"{later}; read again in {after_s:g} s")
                await asyncio.sleep(after_s)
                continue
            self._again = False
            self._host.counts["reads"] += 1
            self._tell("degraded" if trouble else "running", trouble)
            settled()

    async def _beat(self) -> None:
        """Wait for the next beat; count those that are left out because the read before took so long."""
        while True:
            look = self._look()
            if look.missed:
                self._host.counts["skipped"] += look.missed
            if look.due:
                return
            await asyncio.sleep(look.sleep_s)

    def _look(self) -> Look:
        look = self._plan.look(Reading(0.0, time.monotonic()))
        self._plan = look.plan
        return look

    async def _attempt(self) -> str:
        try:
            return await self._read()
        except TriggerError:
            raise
        except StateError as error:
            raise TriggerError(str(error)) from error
        except Exception as error:
            self._host.log.exception("a read broke off")
            raise TriggerError(f"the read broke off: {type(error).__name__}: {error}") from error

    def _away(self, reason: str) -> None:
        self._host.counts["failed_reads"] += 1
        self._tell("degraded", reason)

    def _tell(self, state: Literal["running", "degraded"], message: str) -> None:
        """Report what has changed here: another part of the trigger may have said something of its own since."""
        if message != self._told:
            self._told = message
            self._host.report(state, message)
