"""`edgehost gpio safe`: what a killed agent drove gets its safe level. The service runs it whenever its agent has ended."""

from __future__ import annotations

import os
import sys

from edgehost.errors import StateError
from edgehost.gpio import safe
from edgehost.gpio.kernel import KernelDriver


def main() -> int:
    """Apply the note in $RUNTIME_DIRECTORY, say what was done, and return the exit code."""
    file = safe.note_file(os.environ)
    if file is None:
        print("edgehost: RUNTIME_DIRECTORY is not set: `gpio safe` is for the service, when its agent has ended", file=sys.stderr)
        return 2
    try:
        for line in safe.apply(file, KernelDriver):
            print(line, file=sys.stderr)
    except StateError as error:
        print(f"edgehost: {error}", file=sys.stderr)
        return 1
    return 0
