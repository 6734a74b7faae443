"""Tests in a lab machine run when `tools/lab` has set one up, and says so in EDGEHOST_LAB; everywhere else they are skipped.

The folder says where they run:

    tests/lab/nspawn    run inside of the container, as root
    tests/lab/vm        run on the host and drive a virtual machine
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MACHINES = {"nspawn": ("nspawn",), "vm": ("vm", "arm64")}
"""For each folder the machines its tests are for; the first one names the command."""

Figure = Callable[[str, float, str, "float | None"], None]


@pytest.fixture
def figure() -> Figure:
    """`figure("start to READY", 0.4, "s", 1.0)`: print a figure, with what it should reach (None: nothing) as an upper bound.

    pytest shows it with `-rP` or `-s`; `tools/bench devices` reads it there, from tests that are marked `figures`.
    """

    def print_it(name: str, value: float, unit: str, reach: float | None) -> None:
        bound = "" if reach is None else f" (<= {reach:g})"
        print(f"\nfigure: {name}: {value:.4g} {unit}{bound}")

    return print_it


def pytest_runtest_setup(item: pytest.Item) -> None:
    folder = item.path.relative_to(HERE).parts[0]
    if os.environ.get("EDGEHOST_LAB") not in MACHINES[folder]:
        pytest.skip(f"run by tools/lab {MACHINES[folder][0]} test")
