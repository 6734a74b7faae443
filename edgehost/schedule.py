"""When a timer is due: the decision, pure. Clock readings in; what is due now, what was missed, and how long to sleep out.

Two plans, each a frozen value that gives the next one (`Look.plan`), so that a test can hand them any history of clock readings.

`SteadyPlan` (an interval) lives on the monotonic clock: occurrence k is due at start + k * interval, so nothing drifts and no
step of the wall clock is noticed.

`WallPlan` (a schedule) lives on the wall clock, which people and NTP step. What it does with a reading, against the last one:
    forward                      what became due is due: on time if less than GRACE_S late, missed otherwise (misfire policy)
    forward from before 2020     a clock that was never set: start afresh from now, nothing was missed
    back, up to SHORT_STEP_S     wait for the clock to catch up; nothing is due a second time
    back, up to LONG_STEP_S      go by the new time: a frequent schedule (minute or hour begins with `*`) runs through those
                                 minutes again, each once as the clock shows it; one for a fixed time of day is not run again
    back, further                the clock was wrong before: go by the new time, what ran under the old one counts no more
(The line between the last two, and what is frequent, is that of Debian's cron, cron(8). Made-up runs are never repeated.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from math import floor, inf
from typing import Literal, NamedTuple

from cronsim import CronSim, CronSimError

Misfire = Literal["skip", "once", "catch_up"]

GRACE_S = 60.0
SHORT_STEP_S = 60.0
LONG_STEP_S = 3 * 3600.0
SLICE_S = 30.0
"""The longest sleep: a stepped clock is noticed at most this late."""
CLOCK_SET = 1577836800.0  # 2020-01-01: a wall clock before this has never been set
MOST_LOOKED_AT = 1000
"""How many missed occurrences are counted; more are told as this many."""

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Reading(NamedTuple):
    """Both clocks at one moment, in seconds: Unix time, and the monotonic clock."""

    wall: float
    steady: float


class Policy(NamedTuple):
    """What happens to missed occurrences: none, one for all, or the newest `most`."""

    misfire: Misfire = "skip"
    most: int = 10


@dataclass(frozen=True)
class Look:
    """What one look at the clocks found. Times are Unix seconds."""

    due: tuple[float, ...]
    """To run now, oldest first: what is on time, and what the policy makes up for."""
    missed: int
    """Occurrences that are not run at all."""
    sleep_s: float
    plan: WallPlan | SteadyPlan


@dataclass(frozen=True)
class Schedule:
    """A 5-field expression, or one of cron's `@` names, in a time zone. ValueError if it is not one, or never comes."""

    text: str
    zone: tzinfo

    def __post_init__(self) -> None:
        fields = self.text.split()
        if self.text.startswith("@") and self.text not in _ALIASES:
            raise ValueError(f"{self.text!r} is not a schedule name; use one of {', '.join(_ALIASES)}, or five fields")
        if not self.text.startswith("@") and len(fields) != 5:
            raise ValueError(f"{self.text!r} has {len(fields)} fields; use five: minute hour day-of-month month day-of-week")
        try:
            if self.after(CLOCK_SET) is None:
                raise CronSimError("No such day")
        except CronSimError as error:
            raise ValueError(f"{self.text!r} is not a schedule: {error}; an example is '*/5 8-18 * * MON-FRI'") from None

    @property
    def expression(self) -> str:
        """The five fields."""
        return _ALIASES.get(self.text, self.text)

    @property
    def frequent(self) -> bool:
        """Whether it follows the clock rather than a time of day (Debian's cron: minute or hour begins with `*`)."""
        minute, hour = self.expression.split()[:2]
        return minute.startswith("*") or hour.startswith("*")

    def after(self, wall: float) -> float | None:
        """The first occurrence later than `wall`; None if there is none in 50 years."""
        found = next(CronSim(self.expression, self._second(wall)), None)
        return None if found is None else found.timestamp()

    def latest(self, since: float, until: float, most: int) -> list[float]:
        """The newest occurrences later than `since` and not later than `until`, oldest first, `most` of them at most."""
        found: list[float] = []
        backwards = CronSim(self.expression, self._second(until + 1), reverse=True)
        for moment in backwards:
            at = moment.timestamp()
            if at <= since or len(found) == most:
                break
            if at <= until:
                found.append(at)
        return found[::-1]

    def _second(self, wall: float) -> datetime:
        """The second `wall` lies in. (fromtimestamp would round 11:59:59.9999998 to noon, and noon would be passed over.)"""
        return datetime.fromtimestamp(floor(wall), self.zone)


@dataclass(frozen=True)
class WallPlan:
    """`until`: the wall time up to which everything has been decided. `newest`: the latest occurrence that was run."""

    schedule: Schedule
    policy: Policy
    until: float
    newest: float = -inf

    def look(self, now: Reading) -> Look:
        """Decide by the wall clock alone. See the module's table."""
        plan, back_s = self, self.until - now.wall
        if back_s > SHORT_STEP_S:
            plan = replace(self, until=now.wall, newest=self.newest if back_s < LONG_STEP_S else -inf)
        elif self.until < CLOCK_SET <= now.wall:
            plan = replace(self, until=now.wall, newest=-inf)
        following = self.schedule.after(plan.until)
        if following is None or following > now.wall:
            until = max(plan.until, now.wall)
            return Look((), 0, _nap(following, now.wall), replace(plan, until=until))
        return plan._run(now.wall)

    def _run(self, wall: float) -> Look:
        found = self.schedule.latest(self.until, wall, max(MOST_LOOKED_AT, self.policy.most + 1))
        new = [at for at in found if at > self.newest]
        on_time = [at for at in found if wall - at < GRACE_S and (self.schedule.frequent or at > self.newest)]
        late = [at for at in new if wall - at >= GRACE_S]
        due = _with_made_up(on_time, late, self.policy)
        plan = replace(self, until=wall, newest=max([self.newest, *due]))
        return Look(due, len(late) + len(on_time) - len(due), _nap(self.schedule.after(wall), wall), plan)


@dataclass(frozen=True)
class SteadyPlan:
    """Every `interval_s` from `start` (monotonic) on; `count` is the number of the next occurrence."""

    interval_s: float
    policy: Policy
    start: float
    count: int = 1

    def look(self, now: Reading) -> Look:
        """Decide by the monotonic clock. The newest occurrence is on time however late the look is: the next is not due yet."""
        reached = int((now.steady - self.start) / self.interval_s)
        reached += self.start + (reached + 1) * self.interval_s <= now.steady  # the division may have rounded down
        oldest = max(self.count, reached - max(MOST_LOOKED_AT, self.policy.most))
        passed = [now.wall - (now.steady - self.start - count * self.interval_s) for count in range(oldest, reached + 1)]
        due = _with_made_up(passed[-1:], passed[:-1], self.policy)
        following = max(self.count, reached + 1)
        sleep_s = self.start + following * self.interval_s - now.steady
        return Look(due, len(passed) - len(due), min(SLICE_S, max(0.0, sleep_s)), replace(self, count=following))


def _with_made_up(on_time: list[float], late: list[float], policy: Policy) -> tuple[float, ...]:
    if policy.misfire == "catch_up":
        return (*late[-policy.most :], *on_time)
    if policy.misfire == "once" and not on_time:
        return tuple(late[-1:])
    return tuple(on_time)


def _nap(following: float | None, wall: float) -> float:
    return SLICE_S if following is None else min(SLICE_S, max(0.0, following - wall))
