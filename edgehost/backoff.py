"""The one back-off of the project: how long to wait before trying again. Pure but for the random number; it never sleeps
itself.
"""

from __future__ import annotations

import random


class Backoff:
    """Doubling delays with full jitter over the upper half, from `first_s` up to `most_s` (both seconds).

    Jitter keeps ten thousand devices from coming back in the same second after their broker restarts.
    """

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self.failures = 0

    def next(self) -> float:
        """The delay in seconds before the next try; counts one more failure."""
        # 2 ** 60 is beyond any `most_s`, and a float still holds it: a device may fail for years.
        ceiling = min(self._most_s, self._first_s * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return ceiling * (0.5 + random.random() / 2)

    def reset(self) -> None:
        """Begin again from `first_s`: the last try worked."""
        self.failures = 0
