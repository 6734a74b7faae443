"""Counters: what happened to the events of a function, for people and machines to see. Knows numbers alone."""

from __future__ import annotations

from collections import deque

_LATENCIES = 2048


class Counters:
    """What happened to the events of a function since it was started."""

    __slots__ = ("dropped", "failed", "handled", "last_error", "latencies", "retried")

    def __init__(self) -> None:
        self.handled = 0
        self.failed = 0
        self.dropped = 0
        self.retried = 0
        self.last_error = ""
        self.latencies: deque[float] = deque(maxlen=_LATENCIES)
        """Seconds from submit to answer, of the newest events."""

    def retry(self) -> None:
        """One more try of a failed event."""
        self.retried += 1

    def quantile_ms(self, q: float) -> float:
        """The q-quantile of the newest latencies in milliseconds; 0 if there are none."""
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1e3
