"""Reconnect: the one loop that keeps a source which comes and goes (a port, a chip, a peer, a child process) connected.

    connect returns or raises    told as `degraded` with the reason; tried again after a growing delay
    raises what it should not    the same, with a traceback in the log: a source is never given up for a mistake in its code
    nudged                       tried again at once (the device has just been plugged in)
    cancelled                    ends; `connect` is cancelled with it

A source only says "disconnected", by a TriggerError. Must not know what is connected. (The MQTT session keeps its own: its
delays follow the broker's reason codes.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from edgehost.backoff import Backoff
from edgehost.errors import TriggerError

_log = logging.getLogger("edgehost.reconnect")

Connect = Callable[[Callable[[], None]], Awaitable[None]]
Away = Callable[[str], None]


class Reconnect:
    """`connect(settled)` runs for as long as the connection lasts, and calls `settled()` once it stands, so that the next loss is
    tried again at once. `away(reason)` is told each time the connection is lost or could not be made."""

    def __init__(self, connect: Connect, away: Away, *, first_s: float = 0.2, most_s: float = 10.0) -> None:
        self._connect = connect
        self._away = away
        self._backoff = Backoff(first_s, most_s)
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Try again now: something has changed."""
        self._nudged.set()

    async def run(self) -> None:
        """Keep it connected until cancelled."""
        while True:
            self._nudged.clear()
            try:
                await self._connect(self._backoff.reset)
                reason = "it ended"
            except TriggerError as error:
                reason = str(error)
            except Exception as error:
                _log.exception("a source broke off; it is tried again")
                reason = f"it broke off: {type(error).__name__}: {error}"
            self._away(reason)
            # Not wait_for: before Python 3.12 it swallows a cancel that comes in the turn of the nudge.
            later = asyncio.get_running_loop().call_later(self._backoff.next(), self._nudged.set)
            try:
                await self._nudged.wait()
            finally:
                later.cancel()
