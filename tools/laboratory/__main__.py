"""The command behind `tools/lab`: which machine, what to do in it. Knows no machine from inside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.laboratory import container
from tools.laboratory.board import AMD64, Board
from tools.laboratory.cache import PROJECT, Cache
from tools.laboratory.command import LabError, phase
from tools.laboratory.prepared import SNAPSHOT, prepared
from tools.laboratory.root import checkout, debian, packages

PYTEST = ("pytest", "-p", "no:cacheprovider")
USAGE = """\
tools/lab nspawn test [ARGUMENT...]   the service tests, systemd as PID 1 in a container on this kernel
tools/lab vm test [ARGUMENT...]       the device tests in a virtual machine: pins, ports, limits, power cuts
tools/lab vm shell                    a shell in that machine, with edgehost and its tests
tools/lab clean                       remove what the lab keeps

Arguments go to pytest: tools/lab nspawn test -x -k watchdog
What is slow to make is kept in .cache/lab, or in $EDGEHOST_LAB_CACHE.
"""


def main() -> int:
    """Do what is asked; the exit status is that of the tests."""
    match sys.argv[1:]:
        case ["nspawn", "test", *arguments]:
            return nspawn_test(arguments)
        case ["vm", "test", *arguments]:
            return vm_test("vm", arguments)
        case ["vm", "shell"]:
            return shell(AMD64)
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


def vm_test(machine: str, arguments: list[str]) -> int:
    """tests/lab/vm, run on this host: they start machines and drive them."""
    command = [sys.executable, "-m", "pytest", "--timeout=600", "tests/lab/vm", *arguments]
    with phase(f"{machine} test"):
        return subprocess.run(command, cwd=PROJECT, env={**os.environ, "EDGEHOST_LAB": machine}, check=False).returncode


def shell(board: Board) -> int:
    """A machine with this checkout, for a person; gone when the shell ends."""
    cache = Cache()
    made = prepared(cache, board)
    with (
        checkout(cache) as layer,
        tempfile.TemporaryDirectory(prefix="edgehost-lab-") as folder,
        made.machine(Path(folder)) as machine,
    ):
        machine.start(SNAPSHOT)
        machine.put(layer)
        return machine.shell()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"lab: {error}")
