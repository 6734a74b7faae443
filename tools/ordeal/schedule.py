"""Which faults come when, and how hard: a pure function of the seed. Knows neither an agent nor how a fault is carried out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

MEAN_GAP_S = 1.9
"""Some wait for the one before them, so that a fault comes every 2 to 2.5 seconds."""
POINT = "point:"
"""What the kind of a fault at one of the agent's fault points begins with; the point's name follows."""

WEIGHTS = {
    "kill-agent": 3,
    "kill-worker": 2,
    "kill-zygote": 1,
    "kill-broker": 2,
    "outage": 1,
    "delay": 1,
    "stall": 1,
    "cut": 2,
    "stop-agent": 1,
    "stop-broker": 1,
    "full-disk": 1,
    "clock": 2,
}
"""Every kind of fault but the points, and how many of it one round has; each point comes once a round."""

_HOLD_S = {
    "kill-agent": (0.0, 0.6),
    "kill-worker": (0.0, 0.0),
    "kill-zygote": (0.0, 0.0),
    "kill-broker": (0.1, 0.8),
    "delay": (1.0, 4.0),
    "stall": (0.5, 3.0),
    "cut": (0.0, 0.5),
    "stop-agent": (0.5, 4.0),
    "stop-broker": (0.5, 4.0),
    "full-disk": (0.5, 4.0),
    "clock": (0.0, 0.0),
}
_RARE = frozenset({"dead.written", "dead.replayed", "dedupe.known"})
"""Points that few events pass: the agent dies at the first or second."""
_HOUR_S = 3600
_YEAR_S = 365 * 24 * _HOUR_S


@dataclass(frozen=True)
class Fault:
    """One fault: `at_s` seconds into the run, undone after `hold_s`."""

    number: int
    at_s: float
    kind: str
    hold_s: float = 0.0
    amount: float = 0.0
    """What the kind makes of it: seconds of a delay or of a step of the clock, passes of a point."""

    @property
    def point(self) -> str:
        """The fault point, for a fault at one."""
        return self.kind.removeprefix(POINT) if self.kind.startswith(POINT) else ""

    def __str__(self) -> str:
        more = f", {self.amount:g}" if self.amount else ""
        return f"fault {self.number} at {self.at_s:.1f} s: {self.kind} for {self.hold_s:.2f} s{more}"


def kinds(points: Sequence[str]) -> list[str]:
    """Every kind of fault there is."""
    return [*WEIGHTS, *(f"{POINT}{point}" for point in points)]


def chosen(only: str, points: Sequence[str]) -> list[str]:
    """The kinds that `only` names: one of them, `point` for all points, "" for all. ValueError if it names none."""
    named = {only, f"{POINT}{only}"}
    found = [kind for kind in kinds(points) if not only or kind in named or (only == "point" and POINT in kind)]
    if not found:
        raise ValueError(f"{only!r} is no fault; use point or one of {', '.join(kinds(points))}")
    return found


def plan(seed: int, minutes: float, points: Sequence[str], only: str = "") -> list[Fault]:
    """The faults of a run, in their order. The same seed gives the same faults; more minutes give more behind the same ones."""
    wanted = chosen(only, points)
    order, gaps = random.Random(f"{seed} order"), random.Random(f"{seed} gaps")
    faults: list[Fault] = []
    round_of: list[str] = []
    at_s = 0.0
    while True:
        at_s += gaps.uniform(0.5, 2 * MEAN_GAP_S - 0.5)
        if at_s > minutes * 60:
            return _with_long_outage(faults, minutes)
        if not round_of:
            round_of = [kind for kind in wanted for _ in range(WEIGHTS.get(kind, 1))]
            order.shuffle(round_of)
        faults.append(_fault(len(faults) + 1, at_s, round_of.pop(), random.Random(f"{seed} fault {len(faults)}")))


def _fault(number: int, at_s: float, kind: str, dice: random.Random) -> Fault:
    if kind.startswith(POINT):
        most = 2 if kind.removeprefix(POINT) in _RARE else 12
        return Fault(number, at_s, kind, 0.0, dice.randint(1, most))
    if kind == "outage":
        # Mostly seconds, now and then a minute.
        return Fault(number, at_s, kind, min(60.0, 2.0 + dice.expovariate(1 / 6.0)), dice.randint(0, 1))
    hold_s = dice.uniform(*_HOLD_S[kind])
    amount = 0.0
    if kind == "delay":
        amount = dice.uniform(0.05, 0.5)
    elif kind == "clock":
        amount = dice.choice((-1, 1)) * dice.choice((dice.uniform(1, 24) * _HOUR_S, dice.uniform(1, 12) * _YEAR_S))
    return Fault(number, at_s, kind, hold_s, float(round(amount, 3)))


def _with_long_outage(faults: list[Fault], minutes: float) -> list[Fault]:
    """No outage longer than a tenth of a short run; the first of a long one lasts minutes."""
    most_s = min(60.0, max(2.0, minutes * 6.0))
    long_s = 120.0 if minutes >= 10 else 0.0
    changed: list[Fault] = []
    for fault in faults:
        if fault.kind == "outage":
            hold_s, long_s = (long_s or min(fault.hold_s, most_s)), 0.0
            changed.append(Fault(fault.number, fault.at_s, fault.kind, hold_s, fault.amount))
        else:
            changed.append(fault)
    return changed
