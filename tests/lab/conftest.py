"""Tests in a lab machine run when `tools/lab` has set one up, and says so in EDGEHOST_LAB; everywhere else they are skipped.

The folder says where they run:

    tests/lab/nspawn    run inside of the container, as root
    tests/lab/vm        run on the host and drive a virtual machine
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MACHINES = {"nspawn": ("nspawn",), "vm": ("vm", "arm64")}
"""For each folder the machines its tests are for; the first one names the command."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    folder = item.path.relative_to(HERE).parts[0]
    if os.environ.get("EDGEHOST_LAB") not in MACHINES[folder]:
        pytest.skip(f"run by tools/lab {MACHINES[folder][0]} test")
