"""The anomaly example: its detector on made and recorded series, and its handler."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ModuleOf = Callable[[str], ModuleType]
FINITE = st.floats(-1e300, 1e300)


@pytest.fixture
def detector(example_module: ModuleOf) -> Any:
    return example_module("anomaly/detector").Detector


def noisy(count: int, seed: int = 1) -> list[float]:
    noise = random.Random(seed)
    return [20 + 3 * math.sin(step / 40) + noise.gauss(0, 0.2) for step in range(count)]


def found(detector: Any, values: list[float]) -> list[int]:
    return [place for place, value in enumerate(values) if detector.judge(value).anomalous]


def test_a_calm_series_has_no_anomalies(detector: Any) -> None:
    assert found(detector(window=60, warm_up=20), noisy(5000)) == []


def test_spikes_and_nothing_else_are_found(detector: Any) -> None:
    values = noisy(2000)
    for place, size in ((100, 15.0), (777, -15.0), (1500, 40.0)):
        values[place] += size
    assert found(detector(window=60, warm_up=20), values) == [100, 777, 1500]


def test_nothing_is_found_before_the_warm_up_is_over(detector: Any) -> None:
    judge = detector(window=60, warm_up=20)
    assert found(judge, [1.0, 1000.0, -1000.0] * 6 + [5.0, 5.0]) == []
    assert judge.judge(1e6).anomalous


def test_a_new_level_is_told_and_then_becomes_the_expectation(detector: Any) -> None:
    told = found(detector(window=60, warm_up=20), [*noisy(200), *(value + 30 for value in noisy(200, seed=2))])
    assert told[:20] == list(range(200, 220))
    assert told[-1] < 200 + 60


def test_an_outlier_does_not_change_what_is_expected_next(detector: Any) -> None:
    judge = detector(window=60, warm_up=20)
    for value in noisy(100):
        judge.judge(value)
    before = judge.judge(20.0).expected
    judge.judge(1e9)
    assert abs(judge.judge(20.0).expected - before) < 0.5


def test_a_flat_series_does_not_cry_at_its_own_rounding_but_does_at_a_step(detector: Any) -> None:
    judge = detector(window=60, warm_up=20)
    assert found(judge, [50.0] * 100 + [50.1] + [50.0] * 20) == []
    assert judge.judge(60.0).anomalous


@given(st.lists(FINITE, max_size=80), st.integers(1, 12), st.integers(0, 15))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_numbers_come_the_window_holds_the_newest_and_the_median_is_one_of_them(
    detector: Any, values: list[float], window: int, warm_up: int
) -> None:
    judge = detector(window=window, warm_up=warm_up)
    for place, value in enumerate(values):
        verdict = judge.judge(value)
        seen = values[max(0, place - window) : place]
        assert verdict.expected in (seen or [value])
        assert verdict.expected == (sorted(seen)[len(seen) // 2] if seen else value)
        assert not math.isnan(verdict.score)


def test_every_labelled_failure_of_a_real_machine_is_found_with_few_false_alarms(detector: Any, recordings: Path) -> None:
    """Numenta Anomaly Benchmark, machine temperature: 79 days, one value in 5 minutes, four labelled failures."""
    name = "machine_temperature_system_failure.csv"
    labels = json.loads((recordings / "nab" / "combined_windows.json").read_text())[f"realKnownCause/{name}"]
    windows = [(datetime.fromisoformat(begin), datetime.fromisoformat(end)) for begin, end in labels]
    judge = detector(window=288, threshold=8.0, warm_up=288)
    hit: set[int] = set()
    false_alarms: list[datetime] = []
    told = datetime.min
    with (recordings / "nab" / name).open() as file:
        for row in csv.DictReader(file):
            if not judge.judge(float(row["value"])).anomalous:
                continue
            at = datetime.fromisoformat(row["timestamp"])
            inside = {number for number, (begin, end) in enumerate(windows) if begin <= at <= end}
            hit |= inside
            if not inside and at - told > timedelta(hours=6):  # values that follow one another are one alarm
                false_alarms.append(at)
            told = at
    assert hit == {0, 1, 2, 3}
    assert len(false_alarms) <= 10


class FakeContext:
    def __init__(self) -> None:
        self.user_data = SimpleNamespace()
        self.logger = SimpleNamespace(warn_with=lambda *_args, **_fields: None)
        self.published: list[tuple[str, Any, str]] = []

    def publish(self, output: str, body: Any, topic: str) -> None:
        self.published.append((output, body, topic))


@pytest.fixture
def function(example_module: ModuleOf, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, FakeContext]:
    for name, value in {"WINDOW": "60", "THRESHOLD": "8", "WARM_UP": "8", "FLOOR": "0.05"}.items():
        monkeypatch.setenv(name, value)
    module, context = example_module("anomaly/main"), FakeContext()
    module.init_context(context)
    return module, context


def reading(body: Any, path: str = "readings/a") -> SimpleNamespace:
    return SimpleNamespace(body=body, path=path, method="")


def test_each_field_of_each_topic_is_a_series_of_its_own(function: tuple[ModuleType, FakeContext]) -> None:
    module, context = function
    for _ in range(10):
        assert module.handler(context, reading({"t": 20.0, "ok": True, "name": "x", "p": 1013}))["anomalies"] == 0
        assert module.handler(context, reading({"t": 500.0}, "readings/b"))["anomalies"] == 0
    answer = module.handler(context, reading({"t": 500.0, "p": 1013}))
    assert answer == {"source": "readings/a", "anomalies": 1}
    (output, found, topic) = context.published[0]
    assert (output, topic) == ("anomalies", "readings/a")
    assert found[0]["series"] == "readings/a/t" and found[0]["expected"] == 20.0
    status = module.handler(context, SimpleNamespace(body=b"", path="/", method="GET"))
    assert status == {"series": ["readings/a/p", "readings/a/t", "readings/b/t"]}


@pytest.mark.parametrize("body", [b"not json", [1, 2], "text"])
def test_a_reading_that_is_no_object_says_what_to_send(function: tuple[ModuleType, FakeContext], body: Any) -> None:
    module, context = function
    with pytest.raises(ValueError, match="readings/a: a reading is a JSON object of numbers"):
        module.handler(context, reading(body))


def test_series_without_end_do_not_fill_the_memory(function: tuple[ModuleType, FakeContext]) -> None:
    module, context = function
    for number in range(module.MOST_SERIES + 5):
        module.handler(context, reading({"t": 1.0, "nan": float("nan")}, f"readings/{number}"))
    kept = context.user_data.detectors
    assert len(kept) == module.MOST_SERIES and "readings/0/t" not in kept and "readings/5/t" in kept
