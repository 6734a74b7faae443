"""A streaming anomaly detector for one series of numbers: the robust z-score over a sliding window. Pure; knows no events.

A value's score is its distance from the median of the window, in units of the window's spread. Median and MAD (the median
absolute deviation) do not follow single outliers, as mean and standard deviation do (Iglewicz and Hoaglin, 1993).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

# For normally distributed values, this many MADs (or mean absolute deviations) make one standard deviation.
SIGMAS_PER_MAD = 1.4826
SIGMAS_PER_MEAN_DEVIATION = 1.2533


@dataclass(frozen=True)
class Verdict:
    """What the detector says of one value. `score` has the sign of the deviation; it is 0 during the warm-up."""

    value: float
    expected: float
    score: float
    anomalous: bool


class Detector:
    """Judges each value by the `window` values before it, once there are `warm_up` of them.

    `floor` is the least spread, as a part of the median: below it a flat series' own noise would look like an event.
    """

    def __init__(self, window: int = 288, threshold: float = 8.0, warm_up: int = 288, floor: float = 0.01) -> None:
        self.window = window
        self.threshold = threshold
        self.warm_up = max(1, min(warm_up, window))
        self.floor = floor
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []

    def judge(self, value: float) -> Verdict:
        """The verdict on `value`, which then belongs to the window. Costs O(window)."""
        expected = self._ordered[len(self._ordered) // 2] if self._ordered else value
        score = 0.0
        if len(self._ordered) >= self.warm_up:
            score = (value - expected) / self._spread(expected)
        self._remember(value)
        return Verdict(value, expected, score, abs(score) > self.threshold)

    def _spread(self, median: float) -> float:
        deviations = sorted(abs(value - median) for value in self._ordered)
        spread = SIGMAS_PER_MAD * deviations[len(deviations) // 2]
        if spread == 0.0:  # more than half of the window is one value: the MAD sees nothing of the rest
            spread = SIGMAS_PER_MEAN_DEVIATION * sum(deviations) / len(deviations)
        return max(spread, self.floor * abs(median), 1e-9)

    def _remember(self, value: float) -> None:
        self._recent.append(value)
        insort(self._ordered, value)
        if len(self._recent) > self.window:
            del self._ordered[bisect_left(self._ordered, self._recent.popleft())]
