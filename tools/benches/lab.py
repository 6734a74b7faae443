"""The part of `tools/bench devices` that needs kernels and a systemd of its own: figures that the tests of `tools/lab` print.

Only root on a machine with apt can run the lab; elsewhere its figures are left out, and that is said.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools.benches.report import Row

_LAB = Path(__file__).parents[1] / "lab"
_FIGURE = re.compile(r"^figure: (.+): ([\d.e+-]+) (\S+)(?: \(<= ([\d.e+-]+)\))?$", re.MULTILINE)


def run() -> list[Row]:
    """The service in a container, pins in a virtual machine."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("bench devices: service and kernel pins are left out: tools/lab needs root and apt", file=sys.stderr)
        return []
    return [*_figures("nspawn"), *_figures("vm")]


def _figures(machine: str) -> list[Row]:
    done = subprocess.run([_LAB, machine, "test", "-s", "-m", "figures"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout[-4000:]}\ntools/lab {machine} test failed")
    return [
        Row(name, float(value), unit, float(reach) if reach else None, higher_is_better=False)
        for name, value, unit, reach in _FIGURE.findall(done.stdout)
    ]
