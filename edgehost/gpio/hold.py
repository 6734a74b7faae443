"""A button held: which moments of a held line are worth an event. Pure; the caller brings edges and the time.

    state      comes                       next
    released   rising edge                 pressed; due after `hold_ns`
    pressed    due                         held: Held(count 1); due again after `repeat_ns`, if that is given
    held       due                         held: Held(count + 1); moments missed because nobody asked in time are left out
    any        falling edge                released
A line that is active when listening begins has no rising edge and counts as released.
"""

from __future__ import annotations

from msgspec import Struct

from edgehost.gpio.line import Edge


class Held(Struct, frozen=True):
    """The line has been active for `held_ns`; `count` is 1 for the hold itself, more for its repetitions."""

    timestamp_ns: int
    held_ns: int
    count: int


class Hold:
    """One line's. `repeat_ns` 0: no repetitions."""

    def __init__(self, hold_ns: int, repeat_ns: int) -> None:
        self.due_ns: int | None = None
        """When `tick` is to be called, by the edges' clock; None: not before the next edge."""
        self._hold_ns = hold_ns
        self._repeat_ns = repeat_ns
        self._since_ns = 0
        self._count = 0

    def edge(self, edge: Edge) -> list[Held]:
        """What was due before this edge; then the edge counts."""
        held = self.tick(edge.timestamp_ns)
        self.due_ns = edge.timestamp_ns + self._hold_ns if edge.rising else None
        self._since_ns, self._count = edge.timestamp_ns, 0
        return held

    def tick(self, now_ns: int) -> list[Held]:
        """What is due by now: one at the most."""
        if self.due_ns is None or now_ns < self.due_ns:
            return []
        moment_ns = self.due_ns
        self.due_ns = None
        if self._repeat_ns:
            moment_ns += (now_ns - moment_ns) // self._repeat_ns * self._repeat_ns
            self.due_ns = moment_ns + self._repeat_ns
        self._count += 1
        return [Held(moment_ns, moment_ns - self._since_ns, self._count)]
