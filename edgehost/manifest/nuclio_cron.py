"""The attributes of Nuclio's cron trigger, and its schedules in the five fields everybody else uses. Pure but for the Section."""

from __future__ import annotations

from typing import Any

from edgehost.manifest.nuclio_section import Section
from edgehost.manifest.problem import KeyPath, Mistake, not_allowed, show

_NOT_USED = dict.fromkeys(("concurrencyPolicy", "jobBackoffLimit"), "not used: it is for Kubernetes CronJobs")
_UNKNOWN = "not used: edgehost does not know this key"


def cron_settings(attributes: Section, to: KeyPath) -> None:
    """Fill the cron trigger's settings at `to`."""
    _read_times(attributes, to)
    event = attributes.section("event")
    event.move("body", (*to, "body"), _text)
    headers = event.section("headers")
    for name, header in headers.scalars().items():
        headers.reading.put((*to, "headers", name), _text(header), (*headers.path, name))
    event.leave({}, "not used: a cron event has its body and headers alone")
    attributes.leave(_NOT_USED, _UNKNOWN)


def _read_times(attributes: Section, to: KeyPath) -> None:
    schedule, origin = attributes.take("schedule")
    interval, interval_origin = attributes.take("interval")
    if interval is not None:  # Nuclio looks at the interval first, and at the schedule only without one
        attributes.reading.put((*to, "every_s"), interval, interval_origin)
        if schedule is not None:
            attributes.reading.warn(origin, "not used: interval is given too, and Nuclio prefers it")
    elif schedule is not None:
        if not isinstance(schedule, str):
            raise not_allowed(origin, schedule, 'a schedule, as in "*/5 * * * *"')
        if schedule.startswith("@every "):
            attributes.reading.put((*to, "every_s"), schedule.removeprefix("@every ").strip(), origin)
        else:
            attributes.reading.put((*to, "schedule"), five_fields(schedule, origin), origin)
    else:
        raise Mistake(attributes.path, 'says no time; write interval, as in "30s", or schedule, as in "*/5 * * * *"')


def five_fields(schedule: str, origin: KeyPath) -> str:
    """A schedule of robfig/cron, which puts seconds first and knows `?`, in five fields.

    Nuclio replaces `*` seconds by 0 (its pull request 1246), so both mean "once in the minute".
    """
    fields = schedule.replace("?", "*").split()
    if len(fields) == 6 and fields[0] not in ("0", "00", "*"):
        raise Mistake(origin, f"{show(schedule)} counts seconds, and a schedule here counts minutes; use interval")
    return " ".join(fields[1:] if len(fields) == 6 else fields)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"{show(value)} is not allowed; use text")
