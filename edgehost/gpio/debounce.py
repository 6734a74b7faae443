"""Software debounce: of a bouncing line's edges, those after which it stayed quiet. Pure; the caller brings edges and the time.

    settled at L    comes               next
    quiet           edge to not L       unsure since its time
    quiet           edge to L           quiet (the kernel saw only the end of a bounce)
    unsure          edge, either way    unsure since its time, if less than `period` has passed; else settle first
    unsure          `period` passed     quiet at the new level: one Edge, of the time it had been quiet for `period`;
                                        none if the line came back to L
The kernel's own debounce times its edges in the same way (gpiolib-cdev.c, debounce_work_func).
"""

from __future__ import annotations

from edgehost.gpio.line import Edge


class Debounce:
    """One line's. `level` is the logical level at the beginning, `period_ns` how long it must be quiet."""

    def __init__(self, period_ns: int, level: bool) -> None:
        self.due_ns: int | None = None
        """When `tick` is to be called, by the edges' clock; None: not before the next edge."""
        self._period_ns = period_ns
        self._settled = level
        self._last = Edge(level, 0, 0)

    def edge(self, edge: Edge) -> list[Edge]:
        """What an edge of the line settles: at most the change before it."""
        settled = self.tick(edge.timestamp_ns)
        self._last = edge
        if edge.rising != self._settled or self.due_ns is not None:
            self.due_ns = edge.timestamp_ns + self._period_ns
        return settled

    def tick(self, now_ns: int) -> list[Edge]:
        """What the time settles."""
        if self.due_ns is None or now_ns < self.due_ns:
            return []
        due_ns, self.due_ns = self.due_ns, None
        if self._last.rising == self._settled:
            return []
        self._settled = self._last.rising
        return [Edge(self._settled, due_ns, self._last.seqno)]
