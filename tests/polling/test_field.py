"""Fields by dotted paths, and what is said of one that is not there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgehost.polling import pick


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        ({"a": 1}, "a", 1),
        ({"a": {"b": [1, {"c": 2}]}}, "a.b.1.c", 2),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 1),
        ([5, 6], "0", 5),
        ({"a": None}, "a", None),
    ],
)
def test_a_path_leads_to_its_value(value: Any, path: str, expected: Any) -> None:
    assert pick(value, path) == expected


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({"b": 1, "c": 2}, "a", "there is no 'a' at the top, which has b, c"),
        ({"a": {"b": 1}}, "a.x.y", "there is no 'x' in 'a', which has b"),
        ({"a": [1]}, "a.3", "there is no '3' in 'a', which is a list of 1"),
        (None, "a", "there is no 'a' at the top, which is null"),
        ("text", "a", "there is no 'a' at the top, which is a single value"),
        ({}, "a", "there is no 'a' at the top, which has nothing"),
        (dict.fromkeys("abcdefghij"), "z", "which has a, b, c, d, e, f, g, h …"),
    ],
)
def test_a_missing_step_is_named_with_what_is_there(value: Any, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pick(value, path)
