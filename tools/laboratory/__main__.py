"""The command behind `tools/lab`: which machine, what to do in it. Knows no machine from inside."""

from __future__ import annotations

import sys

from tools.laboratory import container
from tools.laboratory.cache import Cache
from tools.laboratory.command import LabError, phase
from tools.laboratory.root import checkout, debian, packages

PYTEST = ("pytest", "-p", "no:cacheprovider")
USAGE = """\
tools/lab nspawn test [ARGUMENT...]   the service tests, systemd as PID 1 in a container on this kernel
tools/lab clean                       remove what the lab keeps

Arguments go to pytest: tools/lab nspawn test -x -k watchdog
What is slow to make is kept in .cache/lab, or in $EDGEHOST_LAB_CACHE.
"""


def main() -> int:
    """Do what is asked; the exit status is that of the tests."""
    match sys.argv[1:]:
        case ["nspawn", "test", *arguments]:
            return nspawn_test(arguments)
        case ["clean"]:
            Cache().clean()
            return 0
        case ["--help" | "-h"]:
            print(USAGE, end="")
            return 0
    print(USAGE, end="", file=sys.stderr)
    return 2


def nspawn_test(arguments: list[str]) -> int:
    """tests/lab/nspawn, run inside of the container by its own pytest."""
    cache = Cache()
    layers = [packages(cache, "amd64"), debian(cache, "amd64")]
    with phase("nspawn test"), checkout(cache) as layer:
        return container.run([layer, *layers], ["env", "EDGEHOST_LAB=nspawn", *PYTEST, "tests/lab/nspawn", *arguments])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"lab: {error}")
