"""Capacity: how many messages of QoS 1 and 2 a broker takes at once, as far as it can be known. Pure.

    the broker forgot the session           what it granted
    it goes on with that of an earlier run  half, and from there on as below
    lost soon, with messages under way      half: it may count exchanges that nobody goes on with, and not say so
    lost with as many as it may hold        at most one less than that from now on
    up for a second                         one more, up to that most
    up for a minute                         the most is one more, up to what it granted

Exchanges that a killed run has left open take places in the broker's window. mosquitto 2.0.11 closes the connection of who sends
one too many, so a client that sends as many as it was granted would never get anything through again.
"""

from __future__ import annotations

_MINUTE_S = 60.0


class Capacity:
    """`now` is the number to go by."""

    def __init__(self) -> None:
        self.now = 1
        self._granted = 1
        self._most = 1
        self._learned = False
        self._raised_s = 0.0

    def opened(self, granted: int, session_present: bool) -> None:
        """A connection is up."""
        if not session_present:
            self.now = self._most = granted
            self._learned = False
        elif not self._learned:
            self._most = granted
            self.now = max(1, granted // 2)  # what an earlier run has learned is forgotten
            self._learned = True
        self._granted = granted
        self._most = min(self._most, granted)
        self.now = min(self.now, self._most)

    def lost(self, under_way: int, soon: bool) -> None:
        """The connection is over, with so many messages under way; `soon`: it had hardly begun."""
        if not under_way:
            return
        if under_way >= self.now:
            self._most = max(1, self.now - 1)
        if soon:
            self.now = max(1, self.now // 2)
        self.now = min(self.now, self._most)
        self._learned = True

    def tick(self, seconds: float) -> None:
        """The connection has been up for so long since the last time."""
        if not self._learned:
            return
        self._raised_s += seconds
        if self._raised_s >= _MINUTE_S:
            self._raised_s = 0.0
            self._most = min(self._granted, self._most + 1)
        self.now = min(self._most, self.now + 1)
