from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.manifest.units import seconds, size_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", 30), ("500ms", 0.5), ("1h30m", 5400), ("1h 30m", 5400), ("2d", 172800), ("1.5s", 1.5), ("250us", 0.00025),
        ("250µs", 0.00025), ("10ns", 1e-8), ("30", 30), ("0.5", 0.5), (" 5 s ", 5), ("1m30s500ms", 90.5),
        ("", None), ("s", None), ("30 parsecs", None), ("-5s", None), ("5s x", None), ("1h30", None), ("٣s", None), ("inf", None),
    ],
)  # fmt: skip
def test_durations(text: str, expected: float | None) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("128MiB", 134217728), ("4 MB", 4000000), ("128Mi", 134217728), ("500M", 500000000), ("1Gi", 1 << 30), ("1GiB", 1 << 30),
        ("512", 512), ("512B", 512), ("64kB", 64000), ("64KB", 64000), ("64 KiB", 65536), ("64k", 64000), ("1.5GiB", 1610612736),
        ("0.3 B", 1), ("129e6", 129000000), ("1T", 10**12), ("128mb", 128000000), ("128mib", 134217728), ("4gb", 4000000000),
        ("", None), ("MiB", None), ("128m", None), ("128Q", None), ("-1", None), ("1 000", None), ("٣MB", None),
    ],
)  # fmt: skip
def test_sizes(text: str, expected: int | None) -> None:
    """`128m` is refused: in a Kubernetes quantity it is a thousandth, and nobody means that."""
    assert size_bytes(text) == expected


@given(st.text(max_size=40))
def test_any_text_is_a_number_or_none(text: str) -> None:
    assert seconds(text) is None or seconds(text) >= 0  # type: ignore[operator]
    assert size_bytes(text) is None or size_bytes(text) >= 0  # type: ignore[operator]


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59))
def test_hours_minutes_and_seconds_add_up(hours: int, minutes: int, rest: int) -> None:
    assert seconds(f"{hours}h{minutes}m{rest}s") == hours * 3600 + minutes * 60 + rest
