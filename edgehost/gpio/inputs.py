"""Lines that are listened to: one request for each, however many listen to it, and one descriptor for the loop to watch.

    a listener comes     no request yet             request the line
                         its wish agrees            hears what the others hear; edges are widened to `both` if they differ
                         its wish differs           refused, naming who listens already
    the chip goes        every listener is told, the request is given up; each asks again by itself
    the last one leaves  the line is released
Edges of different lines that are read together are handed over in the order of their times. Edges that the kernel pushed out of a
full buffer show as gaps in the sequence numbers and are told as `lost`. Where the chip and the kernel refuse to debounce, it is
done here. Must not know what is made of an edge.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import select
import time
from operator import itemgetter
from typing import Protocol

from edgehost.gpio.debounce import Debounce
from edgehost.gpio.line import Driver, Edge, InputLine, InputWish, Place
from edgehost.gpio.trouble import GpioError, refusal

_REFUSED = (errno.EINVAL, errno.ENXIO, errno.EOPNOTSUPP, 524)
"""524 is the kernel's own ENOTSUPP, which it lets slip out here and there."""


class Listener(Protocol):
    """Who hears of a line."""

    owner: str
    """Who that is, for messages and as the line's consumer."""

    def edges(self, edges: list[Edge], lost: int) -> None:
        """These came, in order; `lost` more were pushed out of the buffer before or among them."""

    def gone(self) -> None:
        """The chip has gone: no edge will come any more."""


class Input:
    """One requested line and who listens to it."""

    def __init__(self, place: Place, name: str, wish: InputWish, driver: Driver, owner: str) -> None:
        self.place = place
        self.wish = wish
        self.listeners: list[Listener] = []
        self._name = name
        self._driver = driver
        self._owner = owner
        self._debounce: Debounce | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seqno = 0
        self.line = self._request()

    def _request(self) -> InputLine:
        """Ask the kernel to debounce; if it refuses, ask for the bare line and debounce here."""
        wish = self.wish
        if wish.debounce_s:
            try:
                return self._driver.input(self.place, wish, self._owner)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
            wish = wish._replace(debounce_s=0.0, edges="both")
        line = self._driver.input(self.place, wish, self._owner)
        try:
            if self.wish.debounce_s:
                self._debounce = Debounce(round(self.wish.debounce_s * 1e9), line.value)
        except OSError:
            line.release()
            raise
        return line

    def agree(self, wish: InputWish) -> bool:
        """Whether a listener with this wish can be served by the same request. True too if only the edges are to be widened."""
        return wish._replace(edges="both") == self.wish._replace(edges="both")

    def widen(self) -> None:
        """Ask for both edges from now on. What came in the moment without a request is not seen."""
        self.release()
        self.wish = self.wish._replace(edges="both")
        self._seqno = 0
        self.line = self._request()

    def read(self) -> tuple[list[Edge], int]:
        """What waits, and how many edges were lost. OSError once the chip has gone."""
        edges = self.line.read()
        if not edges:
            return edges, 0
        # Sequence numbers count from 1, so a difference to what was expected is what the buffer could not hold.
        lost = edges[-1].seqno - self._seqno - len(edges)
        self._seqno = edges[-1].seqno
        return edges, lost

    def hand_over(self, edges: list[Edge], lost: int) -> None:
        """Tell the listeners, of what is left after debouncing."""
        if self._debounce is not None:
            edges = [settled for edge in edges for settled in self._debounce.edge(edge)]
            self._await_quiet()
        if edges or lost:
            for listener in tuple(self.listeners):
                listener.edges(edges, lost)

    def _await_quiet(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._debounce is not None and self._debounce.due_ns is not None:
            delay_s = (self._debounce.due_ns - time.monotonic_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(max(delay_s, 0.0), self._quiet)

    def _quiet(self) -> None:
        self._timer = None
        if self._debounce is None:
            return
        edges = self._debounce.tick(time.monotonic_ns())
        self._await_quiet()
        for listener in tuple(self.listeners) if edges else ():
            listener.edges(edges, 0)

    def release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._debounce = None
        self.line.release()


class Inputs:
    """Every line that this agent listens to through one driver."""

    def __init__(self, driver: Driver) -> None:
        self.held: dict[Place, Input] = {}
        self._driver = driver
        self._by_fd: dict[int, Input] = {}
        self._epoll: select.epoll | None = None

    def join(self, place: Place, name: str, wish: InputWish, listener: Listener) -> bool:
        """Listen to the line, until `leave`; returns its level now. Raises GpioError."""
        held = self.held.get(place)
        try:
            if held is None:
                held = self.held[place] = Input(place, name, wish, self._driver, listener.owner)
                self._watch(held)
            elif not held.agree(wish):
                who = ", ".join(sorted({other.owner for other in held.listeners}))
                raise GpioError(
                    f"{name}: {who} listens to this line with another pull, active_low or debounce; use the same in both",
                    "failed",
                )
            elif held.wish.edges not in ("both", wish.edges):
                self._widen(held)
            level = held.line.value
        except OSError as error:
            if held is not None and not held.listeners:
                self._give_up(held)
            raise refusal(error, name, place, self._driver) from error
        held.listeners.append(listener)
        return level

    def leave(self, place: Place, listener: Listener) -> None:
        """Listen no more; the last one out releases the line."""
        held = self.held.get(place)
        if held is not None and listener in held.listeners:
            held.listeners.remove(listener)
            if not held.listeners:
                self._give_up(held)

    def drain(self) -> None:
        """Read every line that has edges, and hand them over in the order of their times."""
        batches = []
        for fd, _ in self._epoll.poll(0) if self._epoll is not None else ():
            held = self._by_fd[fd]
            try:
                edges, lost = held.read()
            except OSError:
                self._lose(held)
                continue
            if edges:
                batches.append((held, edges, lost))
        if len(batches) == 1:
            held, edges, lost = batches[0]
            held.hand_over(edges, lost)
        elif batches:
            _merge(batches)

    def check(self) -> None:
        """Look for chips that have gone without a word."""
        for held in tuple(self.held.values()):
            if not held.line.alive():
                self._lose(held)

    def close(self) -> None:
        """Release everything."""
        for held in tuple(self.held.values()):
            self._give_up(held)
        if self._epoll is not None:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _widen(self, held: Input) -> None:
        self._forget(held)
        try:
            held.widen()
        except OSError:
            self._lose(held)
            raise
        self._watch(held)

    def _watch(self, held: Input) -> None:
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self.drain)
        self._epoll.register(held.line.fd, select.EPOLLIN)
        self._by_fd[held.line.fd] = held

    def _forget(self, held: Input) -> None:
        if self._by_fd.pop(held.line.fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(held.line.fd)

    def _lose(self, held: Input) -> None:
        listeners = tuple(held.listeners)
        self._give_up(held)
        for listener in listeners:
            listener.gone()

    def _give_up(self, held: Input) -> None:
        self._forget(held)
        held.listeners.clear()
        held.release()
        if self.held.get(held.place) is held:
            del self.held[held.place]


def _merge(batches: list[tuple[Input, list[Edge], int]]) -> None:
    for held, _, lost in batches:
        if lost:
            held.hand_over([], lost)
    flat = [(edge.timestamp_ns, held, edge) for held, edges, _ in batches for edge in edges]
    flat.sort(key=itemgetter(0))
    for held, run in itertools.groupby(flat, key=itemgetter(1)):
        held.hand_over([edge for _, _, edge in run], 0)
