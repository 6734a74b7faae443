"""What happens to one message too many: decided here, from numbers alone. Pure.

policy               the message               what is on disk
drop_newest          dropped                   stays
block                waits, its event too      stays
drop_oldest          stored                    the oldest of the same output go
drop_low_priority    stored                    the oldest of the least important output below it go; if there is none: dropped
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from edgehost.manifest.model import FullPolicy

LOW = 5
"""Priorities below this are low: the disk ladder sheds them."""


class Fill(NamedTuple):
    """How full one output's part of the outbox is."""

    queue: int
    priority: int
    bytes: int
    evictable: bool = True
    """False: all of it is on its way, and nothing of it can go."""


class Verdict(NamedTuple):
    """`store` (there is room), `drop`, `block`, or `evict`: `bytes` of queue `victim` have to go first."""

    what: Literal["store", "drop", "block", "evict"]
    victim: int = 0
    bytes: int = 0


def verdict(
    size: int,
    mine: Fill,
    quota: int | None,
    policy: FullPolicy,
    used: int,
    limit: int,
    others: Sequence[Fill],
    most: int | None = None,
) -> Verdict:
    """For a message of `size` bytes: the output's own quota counts first, then the limit of all together. Sizes in bytes.

    `most` is what the limit may be at best, where it is lower for now.
    """
    over_own = 0 if quota is None else mine.bytes + size - quota
    over = max(over_own, used + size - limit)
    if over <= 0:
        return Verdict("store")
    if size > max(limit, most or 0) or (quota is not None and size > quota):
        return Verdict("drop")  # it alone is more than there ever is room for
    if policy == "block":
        return Verdict("block")
    if size > limit:
        return Verdict("drop")  # no eviction would help
    mine_can_go = mine.bytes > 0 and mine.evictable
    if policy == "drop_oldest" and mine_can_go:
        return Verdict("evict", mine.queue, min(over, mine.bytes))
    if policy == "drop_low_priority":
        if over_own > 0:  # nobody else's room would help
            return Verdict("evict", mine.queue, min(over_own, mine.bytes)) if mine_can_go else Verdict("drop")
        lower = [fill for fill in others if fill.priority < mine.priority and fill.bytes and fill.evictable]
        if lower:
            victim = min(lower, key=lambda fill: (fill.priority, -fill.bytes))
            return Verdict("evict", victim.queue, min(over, victim.bytes))
    return Verdict("drop")


class Pace:
    """How fast a backlog leaves: `per_s`, or twice as fast as it still grows. Times are monotonic seconds."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._burst = max(1.0, per_s / 10)
        self._tokens = self._burst
        self._at = now
        self._arrivals = 0.0
        """Messages a second that came lately: a decaying mean over about ten seconds."""
        self._arrived_at = now

    def arrived(self, now: float) -> None:
        """One more message was put behind the backlog."""
        self._arrivals = self._arrivals * max(0.0, 1.0 - (now - self._arrived_at) / 10.0) + 0.1
        self._arrived_at = now

    def rate(self, now: float) -> float:
        """Messages a second. What comes no more counts less from second to second."""
        return max(self._per_s, 2.0 * self._arrivals * max(0.0, 1.0 - (now - self._arrived_at) / 10.0))

    def take(self, now: float) -> float:
        """0 if one may leave now, else in how many seconds to ask again."""
        rate = self.rate(now)
        self._tokens = min(max(self._burst, rate / 10), self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return max(0.005, (1.0 - self._tokens) / rate)
