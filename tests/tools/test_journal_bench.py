"""The pure parts of `tools/bench journal`: how much is offered, what counts as seen, what a figure is the median of."""

from __future__ import annotations

import pytest

from edgehost.control.protocol import FunctionStatus, TriggerStatus
from tools.benches import journal_floods, journal_intake, journal_stand_in


@pytest.mark.parametrize(("seconds", "count"), [(5.0, 1_000_000), (60.0, 1_000_000), (0.5, 100_000), (0.0, 1000)])
def test_a_flood_is_a_million_unless_there_is_less_time(seconds: float, count: int) -> None:
    assert journal_floods.messages(seconds) == count


@pytest.mark.parametrize(
    ("message", "seen"), [("989936 QoS 0 messages dropped since the start", 1_000_000), ("quick at mqtt://b", 10_064)]
)
def test_what_was_dropped_has_been_seen(message: str, seen: int) -> None:
    status = FunctionStatus("quick", "ready", handled=10_064, triggers=[TriggerStatus("in", "mqtt", "running", message)])
    assert journal_floods.seen(status) == seen


def test_a_case_is_told_by_the_medians_of_its_runs() -> None:
    case = journal_intake.Case("as a test", 1)
    runs = [journal_intake.Found(per_s, 1e6 / per_s, per_s / 10, 0.1) for per_s in (1000.0, 4000.0, 2000.0)]
    rows = journal_intake.rows(case, runs)
    assert [row.value for row in rows] == [2000.0, 500.0, 200.0]
    assert all(row.name.startswith("100 B, as a test: ") and row.met is None for row in rows)


def test_the_reaches_are_those_of_events_in_company() -> None:
    (case,) = journal_intake.REACHES
    found = journal_intake.Found(20_000.0, 15.1, 400.0, 10.0)
    assert [row.met for row in journal_intake.rows(case, [found])] == [True, False, None]


def test_the_bare_loop_appends_what_an_event_takes_on_disk() -> None:
    assert len(journal_stand_in.BODY) < len(journal_stand_in.encoded_event()) < 2 * len(journal_stand_in.BODY)
