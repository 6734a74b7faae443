"""Timer events: what they hold, what happens to runs that overlap, and an end that waits. What is due: tests/test_schedule.py."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest

from edgehost.event import Event, Response
from edgehost.schedule import Reading
from edgehost.triggers.cron import CronTrigger, zone_named

DEADLINE_S = 20


@pytest.fixture
async def start(host: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """`await start({"every_s": 0.02}, answer=...)`: a started trigger and its host."""
    started = []

    async def make(settings: dict[str, Any], **what: Any) -> tuple[CronTrigger, Any]:
        from edgehost.event import Origin

        own = host(**{"origin": Origin("cron", "tick"), **what})
        trigger = CronTrigger(msgspec.convert(settings, CronTrigger.Settings), own)
        await trigger.start()
        started.append(trigger)
        return trigger, own

    yield make
    for trigger in started:
        await asyncio.wait_for(trigger.stop(), DEADLINE_S)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "one of schedule"),
        ({"schedule": "* * * * *", "every_s": 5}, "one of schedule"),
        ({"schedule": "* * * *"}, "4 fields"),
        ({"schedule": "* * * * *", "timezone": "Europe/Nowhere"}, "'Europe/Nowhere' is unknown here"),
        ({"schedule": "* * * * *", "timezone": "../../etc/passwd"}, "time zone"),
        ({"every_s": 5, "timezone": "Europe/Berlin"}, "timezone goes with schedule"),
        ({"every_s": 0.001}, "every_s"),
        ({"every_s": 1, "misfire": "panic"}, "misfire"),
        ({"every_s": 1, "overlap": "both"}, "overlap"),
        ({"every_s": 1, "catch_up_limit": 0}, "catch_up_limit"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(settings, CronTrigger.Settings)


def test_missing_time_zone_data_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehost.triggers.cron.ZoneInfo", lambda name: {}[name])
    monkeypatch.setattr("zoneinfo.available_timezones", set)
    with pytest.raises(ValueError, match="install the system package tzdata"):
        zone_named("Europe/Berlin")
    assert zone_named("UTC") is timezone.utc


@pytest.mark.parametrize(("variable", "offset_h"), [("Asia/Tokyo", 9), (":Asia/Tokyo", 9), ("UTC", 0)])
def test_no_time_zone_means_the_machines_own(variable: str, offset_h: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", variable)
    offset = datetime(2026, 6, 1, tzinfo=zone_named("")).utcoffset()
    assert offset is not None
    assert offset.total_seconds() == offset_h * 3600


async def test_an_event_has_its_body_headers_and_both_times(start: Callable[..., Any], until: Any) -> None:
    before = time.time()
    _, host = await start({"every_s": 0.05, "body": "über", "content_type": "text/x-tick", "headers": {"X-A": "b"}})
    await until(lambda: len(host.events) >= 2)
    first, second = host.events[:2]
    assert (first.body, first.content_type, first.path, first.method) == ("über".encode(), "text/x-tick", "/", "")
    assert (first.trigger.kind, first.trigger.name, first.headers["X-A"]) == ("cron", "tick", "b")
    due = [datetime.fromisoformat(event.headers["X-Edgehost-Due"].replace("Z", "+00:00")) for event in (first, second)]
    assert due[0] < due[1]
    assert before - 1 < due[0].timestamp() < time.time()
    assert first.timestamp.tzinfo is timezone.utc
    assert first.timestamp.timestamp() >= due[0].timestamp() - 0.01
    assert first.id == f"tick-{first.headers['X-Edgehost-Due']}"
    assert second.id != first.id


async def test_on_start_runs_at_once(start: Callable[..., Any], until: Any) -> None:
    _, host = await start({"every_s": 3600, "on_start": True})
    await until(lambda: host.events)
    assert len(host.events) == 1


async def test_a_schedule_fires_by_the_wall_clock(start: Callable[..., Any], until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noon = datetime(2026, 6, 1, 12, tzinfo=timezone.utc).timestamp()
    began: list[float] = []

    def clocks_from_just_before_noon() -> Reading:
        now = time.monotonic()
        began.append(now)
        return Reading(noon - 0.1 + now - began[0], now)

    monkeypatch.setattr("edgehost.triggers.cron.read_clocks", clocks_from_just_before_noon)
    _, host = await start({"schedule": "0 14 * * *", "timezone": "Europe/Berlin"})
    await until(lambda: host.events)
    assert host.events[0].id == "tick-2026-06-01T12:00:00.000Z"


async def test_a_minute_that_comes_again_is_another_event(
    start: Callable[..., Any], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(2026, 6, 1, 12, tzinfo=timezone.utc).timestamp()
    walls = itertools.chain([noon - 1, noon - 1, noon, noon - 3600, noon - 3600 + 1, noon], itertools.repeat(noon + 1))
    monkeypatch.setattr("edgehost.triggers.cron.read_clocks", lambda: Reading(next(walls), time.monotonic()))
    monkeypatch.setattr("edgehost.schedule.SLICE_S", 0.01)
    _, host = await start({"schedule": "* * * * *", "timezone": "UTC"})
    await until(lambda: len(host.events) == 2)
    assert [event.headers["X-Edgehost-Due"] for event in host.events] == ["2026-06-01T12:00:00.000Z"] * 2
    assert host.events[0].id != host.events[1].id


class Gate:
    """A function that answers when it is told to, and knows how many run at once."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.now = self.most = 0

    async def answer(self, event: Event) -> Response:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.open.wait()
        self.now -= 1
        return Response()


async def test_skip_leaves_runs_out_while_one_goes_on_and_says_so(start: Callable[..., Any], until: Any) -> None:
    gate = Gate()
    trigger, host = await start({"every_s": 0.02}, answer=gate.answer)
    await until(lambda: trigger.skipped >= 3)
    assert len(host.events) == 1
    assert host.reports[-1][0] == "degraded"
    assert "overlap = 'queue'" in host.reports[-1][1]
    gate.open.set()
    await until(lambda: host.reports[-1][0] == "running")
    assert gate.most == 1


async def test_queue_runs_them_afterwards_one_at_a_time(start: Callable[..., Any], until: Any) -> None:
    gate = Gate()
    trigger, host = await start({"every_s": 0.02, "overlap": "queue"}, answer=gate.answer)
    await until(lambda: len(trigger._waiting) >= 3)
    assert len(host.events) == 1
    waiting = [*trigger._waiting]
    gate.open.set()
    await until(lambda: len(host.events) >= 1 + len(waiting))
    assert (gate.most, trigger.skipped) == (1, 0)


async def test_a_queue_of_runs_has_an_end(start: Callable[..., Any], until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehost.triggers.cron.MOST_WAITING", 5)
    trigger, _ = await start({"every_s": 0.01, "overlap": "queue"}, answer=(gate := Gate()).answer)
    await until(lambda: trigger.skipped)
    assert len(trigger._waiting) == 5
    gate.open.set()


async def test_runs_that_are_made_up_for_follow_one_another(
    start: Callable[..., Any], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = itertools.chain([Reading(1000.0, 0.0)], itertools.repeat(Reading(1055.0, 55.0)))
    monkeypatch.setattr("edgehost.triggers.cron.read_clocks", lambda: next(readings))
    gate = Gate()
    gate.open.set()
    trigger, host = await start({"every_s": 10, "misfire": "catch_up", "catch_up_limit": 2}, answer=gate.answer)
    await until(lambda: len(host.events) == 3)
    dues = [event.headers["X-Edgehost-Due"][14:19] for event in host.events]
    assert dues == ["17:10", "17:20", "17:30"]
    assert (gate.most, trigger.skipped, trigger.missed) == (1, 0, 2)


async def test_stop_waits_for_the_run_in_hand_and_drops_the_waiting(start: Callable[..., Any], until: Any) -> None:
    gate = Gate()
    trigger, host = await start({"every_s": 0.02, "overlap": "queue"}, answer=gate.answer)
    await until(lambda: len(trigger._waiting) >= 2)
    stopping = asyncio.ensure_future(trigger.stop())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    gate.open.set()
    await asyncio.wait_for(stopping, DEADLINE_S)
    await asyncio.sleep(0.05)
    assert len(host.events) == 1


async def test_the_interval_is_kept_while_runs_take_time(start: Callable[..., Any], until: Any) -> None:
    async def takes_a_while(event: Event) -> Response:
        await asyncio.sleep(0.01)
        return Response()

    _, host = await start({"every_s": 0.05, "overlap": "queue"}, answer=takes_a_while)
    await until(lambda: len(host.events) >= 10)
    dues = [datetime.fromisoformat(event.headers["X-Edgehost-Due"].replace("Z", "+00:00")) for event in host.events[:10]]
    span_s = (dues[9] - dues[0]).total_seconds()
    assert span_s == pytest.approx(0.05 * round(span_s / 0.05), abs=0.003), "whole intervals, none drifted"
