"""The gps example: its reading of sentences by table, and whole in tests/e2e/test_serial.py."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("$GPRMC,120000,A,4530.000,S,16706.000,E,010.0,094.5,060626,,*00", (-45.5, 167.1, "120000", None, None, 18.52)),
        ("$GNGGA,120000.5,4530.00,N,01006.00,W,1,09,0.9,114.2,M,-21.3,M,,*00", (45.5, -10.1, "120000.5", 114.2, 9, None)),
        ("$GPRMC,120000,V,,,,,,,060626,,*00", None),
        ("$GPGGA,120000,,,,,0,00,,,M,,M,,*00", None),
        ("$GPRMC,120000,A,45", None),
        ("$GPRMC,120000,A,four,N,five,E,,,060626,,*00", None),
        ("$GPGSV,3,1,11", None),
        ("", None),
    ],
)
def test_a_sentence_becomes_a_fix(example_module: Callable[[str], ModuleType], sentence: str, expected: Any) -> None:
    module = example_module("gps/nmea")
    fix = module.read_fix(sentence)
    assert fix == (expected and module.Fix(*expected))
