"""Which runs are due for any history of clock readings: steps of the wall clock, daylight saving, a clock that was never set."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehost.schedule import MOST_LOOKED_AT, SLICE_S, Policy, Reading, Schedule, SteadyPlan, WallPlan

UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> float:
    """Unix seconds of a UTC time on 2026-06-01, or of a whole date and time."""
    return datetime.fromisoformat(text if "T" in text else f"2026-06-01T{text}").replace(tzinfo=UTC).timestamp()


def told(times: tuple[float, ...] | list[float], zone: timezone | ZoneInfo = UTC) -> list[str]:
    return [datetime.fromtimestamp(time, zone).strftime("%H:%M") for time in times]


def follow(plan: WallPlan, walls: list[float]) -> list[tuple[float, ...]]:
    """What each reading of the wall clock makes due."""
    found = []
    for wall in walls:
        look = plan.look(Reading(wall, 0.0))
        assert isinstance(look.plan, WallPlan)
        plan = look.plan
        found.append(look.due)
    return found


SKIP = Policy("skip")


def hourly(policy: Policy = SKIP, text: str = "0 * * * *", since: str = "10:30:00") -> WallPlan:
    return WallPlan(Schedule(text, UTC), policy, at(since))


# Schedules


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("* * * *", "4 fields"),
        ("0 * * * * *", "6 fields"),
        ("", "0 fields"),
        ("61 * * * *", "Bad minute"),
        ("* * * * FRY", "Bad day-of-week"),
        ("0 0 30 2 *", "not a schedule"),
        ("@reboot", "not a schedule name"),
        ("*/0 * * * *", "Bad"),
    ],
)
def test_what_is_not_a_schedule_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Schedule(text, UTC)


@pytest.mark.parametrize(
    ("name", "following"),
    [
        ("@hourly", "2026-06-01T11:00"),
        ("@daily", "2026-06-02T00:00"),
        ("@midnight", "2026-06-02T00:00"),
        ("@weekly", "2026-06-07T00:00"),
        ("@monthly", "2026-07-01T00:00"),
        ("@yearly", "2027-01-01T00:00"),
        ("@annually", "2027-01-01T00:00"),
    ],
)
def test_the_names_of_cron_are_known(name: str, following: str) -> None:
    assert Schedule(name, UTC).after(at("10:30:00")) == at(following)


DST = [
    ("30 2 * * *", "2026-03-29", ["03:00"]),  # 02:30 does not exist: run at once when the hour is over
    ("30 2 * * *", "2026-10-25", ["02:30"]),  # 02:30 comes twice: run once
    ("0 3 * * *", "2026-03-29", ["03:00"]),
    ("30 * * * *", "2026-03-29", ["00:30", "01:30", "03:30", "04:30"]),
    ("30 * * * *", "2026-10-25", ["00:30", "01:30", "02:30", "02:30", "03:30", "04:30"]),
    ("*/20 2 * * *", "2026-10-25", ["02:00", "02:20", "02:40", "02:00", "02:20", "02:40"]),
    ("*/20 2 * * *", "2026-03-29", []),
]


@pytest.mark.parametrize(("text", "day", "times"), DST)
def test_daylight_saving_neither_loses_nor_doubles_a_run(text: str, day: str, times: list[str]) -> None:
    schedule = Schedule(text, BERLIN)
    start = datetime.fromisoformat(day).replace(tzinfo=BERLIN)
    wall, end = start.timestamp(), (start + timedelta(hours=5)).timestamp()
    plan, found = WallPlan(schedule, Policy(), wall), []
    while wall < end:
        look = plan.look(Reading(wall, 0.0))
        assert isinstance(look.plan, WallPlan)
        plan = look.plan
        found += look.due
        wall += max(look.sleep_s, 1.0)
    assert told(found, BERLIN) == times
    assert schedule.latest(start.timestamp(), end - 1, 100) == found, "looking back finds the same as going forward"


# A wall clock that is set


def test_a_run_is_due_once_and_the_sleep_ends_at_the_next() -> None:
    plan = hourly()
    look = plan.look(Reading(at("10:59:45"), 0.0))
    assert (look.due, look.sleep_s) == ((), 15.0)
    look = look.plan.look(Reading(at("11:00:00"), 0.0))
    assert (told(look.due), look.missed, look.sleep_s) == (["11:00"], 0, SLICE_S)
    assert look.plan.look(Reading(at("11:00:00"), 0.0)).due == ()
    assert look.plan.look(Reading(at("11:00:30"), 0.0)).due == ()


def test_a_reading_a_hair_before_the_run_does_not_pass_it_over() -> None:
    found = follow(hourly(), [at("11:00:00") - 2.4e-7, at("11:00:00")])
    assert [told(due) for due in found] == [[], ["11:00"]]


@pytest.mark.parametrize(
    ("policy", "due", "missed"),
    [
        (Policy("skip"), [], 3),
        (Policy("once"), ["13:00"], 2),
        (Policy("catch_up", 10), ["11:00", "12:00", "13:00"], 0),
        (Policy("catch_up", 2), ["12:00", "13:00"], 1),
    ],
)
def test_a_step_forward_follows_the_misfire_policy(policy: Policy, due: list[str], missed: int) -> None:
    look = hourly(policy).look(Reading(at("13:30:00"), 0.0))
    assert (told(look.due), look.missed) == (due, missed)
    assert look.plan.look(Reading(at("13:30:30"), 0.0)).due == ()


@pytest.mark.parametrize(
    ("policy", "due"),
    [(Policy("skip"), ["13:00"]), (Policy("once"), ["13:00"]), (Policy("catch_up"), ["11:00", "12:00", "13:00"])],
)
def test_what_is_less_than_a_minute_late_is_on_time(policy: Policy, due: list[str]) -> None:
    assert told(hourly(policy).look(Reading(at("13:00:59"), 0.0)).due) == due


def test_an_hour_back_neither_storms_nor_goes_silent_for_a_frequent_schedule() -> None:
    plan = WallPlan(Schedule("* * * * *", UTC), Policy("catch_up", 100), at("12:00:30"), at("12:00:00"))
    walls = [at("11:00:40") + 20.0 * step for step in range(10)]
    found = [time for due in follow(plan, walls) for time in due]
    assert told(found) == ["11:01", "11:02", "11:03"]


def test_an_hour_back_does_not_run_a_fixed_time_again() -> None:
    plan = hourly(Policy("catch_up"), "0 12 * * *", "11:59:30")
    found = follow(
        plan, [at("12:00:00"), at("11:00:10"), at("11:59:59"), at("12:00:00"), at("12:00:30"), at("2026-06-02T12:00:00")]
    )
    assert [told(due) for due in found] == [["12:00"], [], [], [], [], ["12:00"]]


def test_a_clock_that_was_far_ahead_counts_for_nothing_once_it_is_set_back() -> None:
    plan = WallPlan(Schedule("0 12 * * *", UTC), Policy("once"), at("2036-01-01T12:30:00"), at("2036-01-01T12:00:00"))
    found = follow(plan, [at("11:59:00"), at("12:00:00")])
    assert [told(due) for due in found] == [[], ["12:00"]]


def test_a_small_step_back_runs_nothing_twice() -> None:
    plan = WallPlan(Schedule("* * * * *", UTC), Policy(), at("11:59:50"))
    found = follow(plan, [at("12:00:01"), at("11:59:31"), at("12:00:00"), at("12:00:30"), at("12:01:00")])
    assert [told(due) for due in found] == [["12:00"], [], [], [], ["12:01"]]


def test_a_clock_that_goes_to_and_fro_never_makes_up_for_the_same_run_twice() -> None:
    plan = hourly(Policy("catch_up", 10), since="10:30:00")
    found = follow(plan, [at("12:30:00"), at("10:30:00"), at("12:30:00"), at("10:30:00"), at("13:30:00")])
    assert [told(due) for due in found] == [["11:00", "12:00"], [], [], [], ["13:00"]]


@pytest.mark.parametrize("policy", [Policy("skip"), Policy("once"), Policy("catch_up", 1000)])
def test_a_clock_that_was_never_set_starts_afresh_when_it_is(policy: Policy) -> None:
    plan = WallPlan(Schedule("* * * * *", UTC), policy, 10.0)
    before = plan.look(Reading(60.0, 0.0))
    assert before.due == (60.0,), "it goes by the clock there is"
    look = before.plan.look(Reading(at("12:00:30"), 0.0))
    assert (look.due, look.missed) == ((), 0)
    assert told(look.plan.look(Reading(at("12:01:00"), 0.0)).due) == ["12:01"]


def test_years_missed_cost_no_more_than_a_look_back() -> None:
    plan = WallPlan(Schedule("* * * * *", UTC), Policy("catch_up", 3), at("2021-01-01T00:00:00"))
    look = plan.look(Reading(at("12:00:30"), 0.0))
    assert told(look.due) == ["11:57", "11:58", "11:59", "12:00"]
    assert look.missed == MOST_LOOKED_AT - 4


def test_a_sleep_is_never_longer_than_a_slice() -> None:
    look = hourly(text="0 0 1 1 *").look(Reading(at("10:31:00"), 0.0))
    assert look.sleep_s == SLICE_S


MOVES = st.lists(st.floats(-100_000, 100_000) | st.floats(-70, 70) | st.just(30.0), max_size=40)


@settings(max_examples=200, deadline=None)
@given(moves=MOVES, misfire=st.sampled_from(["skip", "once", "catch_up"]), text=st.sampled_from(["* * * * *", "0 12 * * *"]))
def test_whatever_the_clock_does_there_is_no_storm_and_no_long_silence(moves: list[float], misfire: str, text: str) -> None:
    plan = WallPlan(Schedule(text, UTC), Policy(misfire, 5), at("10:00:00"))  # type: ignore[arg-type]
    wall = at("10:00:00")
    for move in moves:
        wall += move
        look = plan.look(Reading(wall, 0.0))
        assert isinstance(look.plan, WallPlan)
        assert len(look.due) <= 6
        assert 0 <= look.sleep_s <= SLICE_S
        assert all(time <= wall for time in look.due)
        assert list(look.due) == sorted(set(look.due))
        plan = look.plan
    if text == "* * * * *":
        steady = [wall + 30.0 * step for step in range(1, 7)]
        assert any(follow(plan, steady)), "three minutes of a clock that goes as it should"


# An interval


def steps(plan: SteadyPlan, readings: list[float]) -> list[tuple[float, ...]]:
    found = []
    for steady in readings:
        look = plan.look(Reading(1000.0 + steady, steady))
        assert isinstance(look.plan, SteadyPlan)
        plan = look.plan
        found.append(look.due)
    return found


def test_an_interval_does_not_drift() -> None:
    plan: SteadyPlan = SteadyPlan(0.1, Policy(), 0.0)
    now = looked = 0.0
    found = 0
    for _ in range(5000):
        look = plan.look(Reading(now, now))
        assert isinstance(look.plan, SteadyPlan)
        plan, found = look.plan, found + len(look.due)
        looked, now = now, now + look.sleep_s + 0.001  # every wake-up is a little late
    assert found == int(looked / 0.1)


@pytest.mark.parametrize(
    ("policy", "due", "missed"),
    [
        (Policy("skip"), (1050.0,), 4),
        (Policy("once"), (1050.0,), 4),
        (Policy("catch_up", 2), (1030.0, 1040.0, 1050.0), 2),
        (Policy("catch_up", 10), (1010.0, 1020.0, 1030.0, 1040.0, 1050.0), 0),
    ],
)
def test_an_interval_that_was_held_up_follows_the_misfire_policy(policy: Policy, due: tuple[float, ...], missed: int) -> None:
    look = SteadyPlan(10.0, policy, 0.0).look(Reading(1055.0, 55.0))
    assert (look.due, look.missed, look.sleep_s) == (due, missed, 5.0)


@pytest.mark.parametrize("wall", [0.0, 1e9, 4e9])
def test_an_interval_does_not_care_what_time_it_is(wall: float) -> None:
    look = SteadyPlan(10.0, Policy(), 100.0).look(Reading(wall, 110.0))
    assert look.due == (wall,)


@settings(max_examples=300, deadline=None)
@given(interval=st.floats(0.01, 1e6), start=st.floats(0, 1e7), waits=st.lists(st.floats(0, 3.0), min_size=1, max_size=60))
def test_each_interval_is_due_once_however_it_is_looked_at(interval: float, start: float, waits: list[float]) -> None:
    plan, now, total = SteadyPlan(interval, Policy("catch_up", 1000), start), start, 0
    for wait in waits:
        now += wait * interval
        look = plan.look(Reading(now, now))
        assert isinstance(look.plan, SteadyPlan)
        plan, total = look.plan, total + len(look.due) + look.missed
        assert 0 <= look.sleep_s <= SLICE_S
    assert abs(total - (now - start) / interval) <= 1.001


def test_pairs_of_occurrences_lie_an_interval_apart() -> None:
    found = [time for due in steps(SteadyPlan(7.0, Policy("catch_up", 50), 0.0), [6.9, 7.0, 30.0, 200.0]) for time in due]
    assert {round(late - early, 6) for early, late in pairwise(found)} == {7.0}
