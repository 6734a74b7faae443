"""Commands of the host, run to their end; a failure tells what was run and the last of what it said. Knows no machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SAID_LINES = 15
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class LabError(Exception):
    """Something the lab needs went wrong; the message says what and what to do."""


def call(
    *arguments: str | Path,
    cwd: Path | None = None,
    given: bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return its standard output. Raises LabError with the end of what it said when it fails."""
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    try:
        done = subprocess.run(
            [str(argument) for argument in arguments],
            cwd=cwd,
            input=given,
            capture_output=True,
            env={**(os.environ if environment is None else environment), "PATH": path},
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{arguments[0]} is not installed; tools/lab installs it where apt-get may") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").splitlines()[-SAID_LINES:]
        raise LabError("\n".join([f"exit status {done.returncode}: {' '.join(map(str, arguments))}", *said]))
    return done.stdout.decode("utf-8", "replace")


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Tell on standard error how long a part of the work took."""
    began = time.monotonic()
    yield
    print(f"lab: {name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
