"""A bench's figures read the same for people and for machines."""

from __future__ import annotations

import json

import pytest

from tools.benches.report import Row, as_json, as_table, machine, number


@pytest.mark.parametrize(
    ("value", "reach", "higher_is_better", "met"),
    [
        (150_000.0, 150_000.0, True, True),
        (149_999.0, 150_000.0, True, False),
        (25.0, 25.0, False, True),
        (25.1, 25.0, False, False),
        (1.0, None, True, None),
    ],
)
def test_a_reach_is_met_at_its_value(value: float, reach: float | None, higher_is_better: bool, met: bool | None) -> None:
    assert Row("figure", value, "unit", reach, higher_is_better).met is met


def test_json_is_one_line_with_the_machine_and_every_row() -> None:
    text = as_json("engine", [Row("echo", 2.5, "ms", 3.0, higher_is_better=False), Row("idle", 20.0, "MiB")])
    assert "\n" not in text
    told = json.loads(text)
    assert set(told) == {"bench", "machine", "rows"}
    assert told["machine"] == machine()
    assert told["rows"] == [
        {"name": "echo", "value": 2.5, "unit": "ms", "reach": 3.0, "met": True},
        {"name": "idle", "value": 20.0, "unit": "MiB", "reach": None, "met": None},
    ]


def test_the_table_names_each_figure_and_what_missed() -> None:
    lines = as_table("engine", [Row("echo", 160_000.0, "events/s", 150_000.0), Row("start", 0.6, "s", 0.5, False)]).splitlines()
    assert lines[-2].split() == ["echo", "160,000", "events/s", ">=", "150,000", "met"]
    assert lines[-1].split() == ["start", "0.6", "s", "<=", "0.5", "MISSED"]


def test_the_machine_is_described() -> None:
    about = machine()
    assert about["cpu"] and about["kernel"] and about["python"].startswith("3.") and about["arch"]
    assert about["cores"] >= 1
    assert about["memory_bytes"] > 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.25, "0.25"), (12.345, "12.3"), (999.4, "999"), (1234.5, "1,234"), (168_000.0, "168,000"), (1e-5, "0.000010")],
)
def test_numbers_are_as_exact_as_they_deserve(value: float, text: str) -> None:
    assert number(value) == text
