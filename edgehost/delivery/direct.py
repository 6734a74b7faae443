"""Direct: what a lane has sent that is not on disk, from `send` until it is known to have arrived.

    under way    it arrives                                its caller is told
    under way    the receiver takes it another time        given back: it is stored
    under way    the receiver will never take it           its caller is told
    under way    for SPILL_S to twice SPILL_S              all that is under way has to be stored
    under way    taken over                                somebody else watches it

Must not know rows, or why something is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from edgehost.delivery.item import Item
from edgehost.errors import AwayError
from edgehost.event import Event, Response
from edgehost.parcel import Parcel
from edgehost.plugin import Forwarding

SPILL_S = 1.0


class Safe(Protocol):
    """What is told that a message is safe, or why it is not: a future, or who would wait for one."""

    def done(self) -> bool: ...

    def set_result(self, result: None, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...


class Sent(NamedTuple):
    """One answer under way. `safe` is its caller's; `item` is what a numbered one leaves as."""

    safe: Safe
    output: Forwarding
    event: Event
    response: Response
    item: Item | None
    serial: int

    def parcel(self) -> Parcel:
        return self.item.parcel if self.item is not None else self.output.pack(self.event, self.response)


_Sent = tuple[Safe, Forwarding, Event, Response, "Item | None", int]
"""The same, as it is while all is well: a bare tuple is made in a tenth of the time."""


class Direct:
    """One lane's. `ended(sent, error)` gets what has arrived or never will, `back(sent, error)` what comes back; `stuck()` is
    called when something has been under way for long."""

    def __init__(
        self,
        ended: Callable[[Sent, BaseException | None], None],
        back: Callable[[Sent, AwayError], None],
        stuck: Callable[[], None],
    ) -> None:
        self._ended = ended
        self._back = back
        self._stuck = stuck
        self._loop = asyncio.get_running_loop()
        self._when_done = self._done
        self._under_way: dict[asyncio.Future[None], _Sent] = {}
        self._serial = 0
        self._look_at: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._under_way)

    def watch(
        self, sent: Awaitable[None], safe: Safe, output: Forwarding, event: Event, response: Response, item: Item | None = None
    ) -> None:
        """See `sent` through, and tell `safe`."""
        wait = sent if isinstance(sent, asyncio.Future) else asyncio.ensure_future(sent)
        self._serial = serial = self._serial + 1
        self._under_way[wait] = safe, output, event, response, item, serial
        wait.add_done_callback(self._when_done)
        if self._look_at is None:
            self._look_at = self._loop.call_later(SPILL_S, self._look, serial)

    def take_over(self) -> list[tuple[asyncio.Future[None], Sent]]:
        """All that is under way, in order: from now on the caller's to watch."""
        under_way, self._under_way = self._under_way, {}
        return [(wait, Sent(*sent)) for wait, sent in under_way.items()]

    def close(self) -> None:
        if self._look_at is not None:
            self._look_at.cancel()

    def _look(self, newest: int) -> None:
        """So long ago `newest` was the last one sent: if it, or one before it, is still under way, that is long."""
        self._look_at = None
        if not self._under_way:
            return
        *_, oldest = next(iter(self._under_way.values()))
        if oldest <= newest:
            self._stuck()
        else:
            self._look_at = self._loop.call_later(SPILL_S, self._look, self._serial)

    def _done(self, wait: asyncio.Future[None]) -> None:
        sent = self._under_way.pop(wait, None)
        if sent is None:
            return
        error = AwayError("it was given up") if wait.cancelled() else wait.exception()
        if error is None and sent[4] is None:
            if not (safe := sent[0]).done():  # as `settle`, without its call: nearly all end here
                safe.set_result(None)
        elif isinstance(error, AwayError):
            self._back(Sent(*sent), error)
        else:
            self._ended(Sent(*sent), error)


def settle(safe: Safe, error: BaseException | None = None) -> None:
    """Tell a caller, if it has not given up."""
    if safe.done():
        return
    if error is None:
        safe.set_result(None)
    else:
        safe.set_exception(error)
