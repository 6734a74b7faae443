"""Fault points: each is passed by edgehost somewhere, and a name that is none is refused at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgehost.delivery import faults

PACKAGE = Path(faults.__file__).parents[1]


def test_every_point_is_passed_somewhere_and_no_other() -> None:
    passed = {name for path in PACKAGE.rglob("*.py") for name in re.findall(r'faults\.at\("([^"]+)"\)', path.read_text())}
    assert passed == set(faults.POINTS)


@pytest.mark.parametrize("text", ["journal", "journal.committed:", "journal.committed:x", "journal.committed:-1", ":3", "x:1"])
def test_a_name_that_is_no_point_is_refused(text: str) -> None:
    if text == "journal.committed:":
        assert faults._Armed(text).left == 1
        return
    with pytest.raises(SystemExit, match=re.escape(f"EDGEHOST_FAULT={text!r} is no fault point; use NAME or NAME:COUNT")):
        faults._Armed(text)


@pytest.mark.parametrize("count", [1, 3])
def test_the_process_dies_at_the_pass_that_is_named(count: int) -> None:
    code = (
        "from edgehost.delivery import faults\n"
        "for number in range(1, 9):\n"
        "    print(number, flush=True); faults.at('inflow.kept'); faults.at('journal.committed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"EDGEHOST_FAULT": f"journal.committed:{count}"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()) == (-9, [str(number) for number in range(1, count + 1)])
