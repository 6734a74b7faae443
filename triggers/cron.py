"""Events at set times: one CronTrigger for each `[triggers.NAME]` of kind `cron`.

edgehost/schedule.py decides what is due; here the clocks are read, the events made, and the runs kept apart:

    a run is due    nothing runs    the one before still runs
    skip            run             leave out, count, report `degraded` until a run ends with nothing left out
    queue           run             run afterwards, at most MOST_WAITING wait
A durable run goes on until the function has answered it, so `skip` leaves out what is due meanwhile, also after a restart; with
`queue` runs wait on disk, and none is dropped at the end.
Runs that are made up for after a misfire follow one another in either case. Knows nothing of how a function runs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timezone, tzinfo
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct

from edgehost.event import Event
from edgehost.intake import NOT_HANDLED
from edgehost.plugin import TriggerHost
from edgehost.schedule import Misfire, Policy, Reading, Schedule, SteadyPlan, WallPlan

MOST_WAITING = 100
DUE_HEADER = "X-Edgehost-Due"
_ADVICE = {
    "skip": ": make it quicker, run it less often, or set overlap = 'queue'",
    "queue": f" and {MOST_WAITING} wait already: make it quicker, or run it less often",
}


class CronSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[triggers.NAME]` with `kind = "cron"`: `schedule` or `every_s`, and what the event holds."""

    schedule: str = ""
    """minute hour day-of-month month day-of-week, or @hourly, @daily, @weekly, @monthly, @yearly."""
    every_s: Annotated[float, Meta(ge=0.01)] | None = None
    """Seconds from one run to the next, by the monotonic clock; `every = "1m30s"` in a manifest."""
    timezone: str = ""
    """An IANA name such as Europe/Berlin, for `schedule`; empty: the machine's own."""
    misfire: Misfire = "skip"
    """What to do about runs that were missed: none of them, one for all, or the newest `catch_up_limit`."""
    catch_up_limit: Annotated[int, Meta(ge=1, le=1000)] = 10
    overlap: Literal["skip", "queue"] = "skip"
    on_start: bool = False
    """One run as soon as the trigger starts, beside the others."""
    body: str = ""
    content_type: str = ""
    headers: dict[str, str] = {}

    def __post_init__(self) -> None:
        if bool(self.schedule) == (self.every_s is not None):
            raise ValueError('give one of schedule, as in "*/5 * * * *", and every, as in "30s"')
        if self.timezone and not self.schedule:
            raise ValueError("timezone goes with schedule; every has no use for it")
        if self.schedule:
            Schedule(self.schedule, zone_named(self.timezone))


class CronTrigger:
    """See edgehost/plugin.py, Trigger."""

    Settings: ClassVar[type[Struct]] = CronSettings
    replies: ClassVar[bool] = False
    max_in_flight: ClassVar[int] = 1
    """Of a durable trigger's runs: one after another."""

    @staticmethod
    def source_id(event: Event) -> str:
        """The trigger's name and the moment it was due."""
        return event.id

    def __init__(self, settings: CronSettings, host: TriggerHost) -> None:
        self.skipped = 0
        """Runs left out because the one before still went on."""
        self.missed = 0
        """Runs that were not made up for."""
        self._settings = settings
        self._host = host
        self._waiting: deque[float] = deque()
        self._made = 0
        self._newest = 0.0
        self._left_out = False
        self._ticking: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch the clocks."""
        plan = _plan(self._settings, read_clocks())
        if self._settings.on_start:
            self._offer([read_clocks().wall])
        self._ticking = asyncio.create_task(self._tick(plan), name=f"cron {self._host.origin.name}")
        self._host.report("running")

    async def stop(self) -> None:
        """No further run; returns when the one in hand has been answered. Runs that wait are dropped and logged, or, if they are
        durable, written down."""
        if self._ticking is not None:
            self._ticking.cancel()
        if self._waiting and not self._host.durable:
            self._host.log.warning("%d waiting runs are dropped: the trigger stops", len(self._waiting))
            self._waiting.clear()
        if self._running is not None:
            await asyncio.wait({self._running})

    async def _tick(self, plan: WallPlan | SteadyPlan) -> None:
        while True:
            look = plan.look(read_clocks())
            plan = look.plan
            if look.missed:
                self._tell_missed(look.missed)
            if look.due:
                self._offer(look.due)
            await asyncio.sleep(look.sleep_s)

    def _tell_missed(self, count: int) -> None:
        self.missed += count
        self._host.log.warning("%d or more runs were missed (the clock was set, or the agent held up); `misfire` decides", count)

    def _offer(self, due: Sequence[float]) -> None:
        """Run these one after another, unless the one before still runs and the policy says so."""
        taking = self._running is not None and not self._running.done()
        running = taking or (self._host.durable and self._settings.overlap == "skip" and self._host.behind)
        room = len(due) if not running else MOST_WAITING - len(self._waiting) if self._settings.overlap == "queue" else 0
        self._waiting.extend(due[:room])
        if left := len(due[room:]):
            self._leave_out(left)
        if not taking and self._waiting:
            self._running = asyncio.create_task(self._run())

    def _leave_out(self, count: int) -> None:
        self.skipped += count
        self._left_out = True
        self._host.report("degraded", f"runs are left out, for the one before still goes on{_ADVICE[self._settings.overlap]}")

    async def _run(self) -> None:
        while self._waiting:
            self._left_out = False
            due = self._waiting.popleft()
            event = self._event(due)
            response = await self._host.submit(event)
            if self._host.durable and response.code in NOT_HANDLED:
                self._host.log.warning("the run %s is lost: %s", event.id, response.body.decode("utf-8", "replace"))
            if not self._left_out:
                self._host.report("running")

    def _event(self, due: float) -> Event:
        moment = datetime.fromtimestamp(due, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        name = self._host.origin.name
        self._made += 1
        # A minute that comes again after the clock was set back is another event: its id must not be that of the first.
        event_id = f"{name}-{moment}" if due > self._newest else f"{name}-{moment}-{self._made}"
        self._newest = max(self._newest, due)
        return Event(
            self._settings.body.encode(),
            self._settings.content_type,
            event_id,
            datetime.now(timezone.utc),
            self._host.origin,
            headers={**self._settings.headers, DUE_HEADER: moment},
        )


def read_clocks() -> Reading:
    """Both clocks, now."""
    return Reading(time.time(), time.monotonic())


def _plan(settings: CronSettings, now: Reading) -> WallPlan | SteadyPlan:
    policy = Policy(settings.misfire, settings.catch_up_limit)
    if settings.every_s is not None:
        return SteadyPlan(settings.every_s, policy, now.steady)
    return WallPlan(Schedule(settings.schedule, zone_named(settings.timezone)), policy, now.wall)


def zone_named(name: str) -> tzinfo:
    """The time zone of that name; of the machine (TZ, else /etc/localtime, else UTC) for an empty one. ValueError if unknown."""
    name = name or os.environ.get("TZ", "").lstrip(":")
    if name in ("UTC", "Etc/UTC"):
        return timezone.utc  # also where no time zone data is installed
    if name:
        try:
            return ZoneInfo(name)
        except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError
            raise ValueError(f"time zone {name!r} cannot be read: {error}") from None
        except KeyError:
            raise ValueError(f"time zone {name!r} is unknown here; {_advice()}") from None
    try:
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return timezone.utc


def _advice() -> str:
    from zoneinfo import available_timezones

    if available_timezones():
        return "use an IANA name such as Europe/Berlin"
    return "no time zone data is installed: install the system package tzdata, or pip install tzdata"
