"""Pulses counted over windows of one length, each window one value. Pure; the caller brings edges and the time.

    comes                                next
    edge inside the window               counted
    edge after the window's end          the window is closed (and every empty one up to the edge), then the edge counts
    the time is past the window's end    closed: read every edge of that time before you ask
    nobody listens any more              closed as long as it was, if there is something in it

The frequency is that of the pulses themselves, not count / window: from the last pulse of an earlier window to the last of this
one. After a pause of more than a window only this window's pulses say it; a lone pulse then gives the time since the one before.
"""

from __future__ import annotations

from msgspec import Struct


class Window(Struct, frozen=True):
    """One closed window: it ended at `end_ns` and had `count` pulses. `frequency_hz` is 0 if that cannot be said."""

    end_ns: int
    length_ns: int
    count: int
    frequency_hz: float
    lost: int
    """Edges that went unseen in it."""


class Pulses:
    """One line's. The first window begins at `start_ns`."""

    def __init__(self, window_ns: int, start_ns: int) -> None:
        self.due_ns = start_ns + window_ns
        """When `tick` is to be called, by the edges' clock."""
        self._window_ns = window_ns
        self._count = 0
        self._lost = 0
        self._first_ns = 0
        self._last_ns = 0
        self._before_ns: int | None = None
        """The last pulse before this window."""

    def lose(self, count: int) -> None:
        """So many edges went unseen; they belong to the window that is open."""
        self._lost += count

    def pulse(self, timestamp_ns: int) -> list[Window]:
        """Count one. Returns the windows that had ended by then."""
        closed = self.tick(timestamp_ns)
        if not self._count:
            self._first_ns = timestamp_ns
        self._last_ns = timestamp_ns
        self._count += 1
        return closed

    def tick(self, now_ns: int) -> list[Window]:
        """The windows that have ended by now, in order."""
        closed = []
        while now_ns >= self.due_ns:
            closed.append(self._window(self.due_ns))
            if self._count:
                self._before_ns = self._last_ns
            self.due_ns += self._window_ns
            self._count = self._lost = 0
        return closed

    def end(self, now_ns: int) -> list[Window]:
        """The windows that have ended by now, and the one that is open, if there is something in it."""
        closed = self.tick(now_ns)
        return [*closed, self._window(now_ns)] if self._count or self._lost else closed

    def _window(self, end_ns: int) -> Window:
        length_ns = self._window_ns - (self.due_ns - end_ns)
        return Window(end_ns, length_ns, self._count, self._frequency_hz(), self._lost)

    def _frequency_hz(self) -> float:
        if not self._count:
            return 0.0
        before_ns, periods = self._before_ns, self._count
        paused = before_ns is None or before_ns < self.due_ns - 2 * self._window_ns
        if paused and self._count > 1:
            before_ns, periods = self._first_ns, self._count - 1
        if before_ns is None or self._last_ns <= before_ns:
            return 0.0
        return periods * 1e9 / (self._last_ns - before_ns)
