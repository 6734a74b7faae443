"""Window: how many events a function is given before it has answered the first. Pure.

    handled        one more at once, for as many answers as it is wide, up to the most there may be
    came back      the function had no room, or its queue's policy was against it: no more than it has kept by now

So a queue that others fill too is found out by a few events, and not by all of them again and again.
"""

from __future__ import annotations


class Window:
    """`now` events may be under way at once, between 1 and `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = most
        self._handled = 0

    def handled(self) -> None:
        """An event was answered."""
        if self.now < self.most:
            self._handled += 1
            if self._handled >= self.now:
                self._handled = 0
                self.now += 1

    def came_back(self, still: int) -> None:
        """An event was not even begun, while the function has `still` others."""
        self.now = max(1, min(self.now, still))
        self._handled = 0
