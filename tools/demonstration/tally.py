"""What went in and what came out of one function, and how long it took. Pure but for its lock: several threads count."""

from __future__ import annotations

from collections import defaultdict, deque
from threading import Lock


class Tally:
    """Events by lane (a topic): within one lane answers come in the order of the events.

    An answer may be seen a moment before its event when the two come by different subscriptions; they are matched all the same.
    """

    def __init__(self) -> None:
        self.went_in = 0
        self.came_out = 0
        self._waiting: dict[str, deque[float]] = defaultdict(deque)
        self._early: dict[str, deque[float]] = defaultdict(deque)
        self._latencies_s: list[float] = []
        self._lock = Lock()

    def into(self, lane: str, at_s: float) -> None:
        """An event was handed over at this time (seconds of one clock)."""
        with self._lock:
            self.went_in += 1
            if self._early[lane]:
                self._early[lane].popleft()
                self._latencies_s.append(0.0)
            else:
                self._waiting[lane].append(at_s)

    def out_of(self, lane: str, at_s: float) -> None:
        """An answer arrived at this time."""
        with self._lock:
            self.came_out += 1
            if self._waiting[lane]:
                self._latencies_s.append(at_s - self._waiting[lane].popleft())
            else:
                self._early[lane].append(at_s)

    @property
    def even(self) -> bool:
        """Whether every event has its answer, lane by lane, and no answer is without an event."""
        with self._lock:
            return not any(self._waiting.values()) and not any(self._early.values())

    def percentile_ms(self, percent: float) -> float | None:
        """The latency that `percent` of the events stayed within; None before the first answer."""
        with self._lock:
            ordered = sorted(self._latencies_s)
        if not ordered:
            return None
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000
