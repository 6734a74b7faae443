"""The command behind `tools/lab`: which machine, what to do in it. Knows no machine from inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.laboratory import container, foreign
from tools.laboratory.board import AMD64, PI3, Board
from tools.laboratory.cache import PROJECT, Cache
from tools.laboratory.command import LabError, phase
from tools.laboratory.image import image
from tools.laboratory.kernel import kernel
from tools.laboratory.machine import Machine
from tools.laboratory.prepared import SNAPSHOT, prepared
from tools.laboratory.root import ENVIRONMENT, checkout, debian, packages

LINES = """
import gpiod
with gpiod.Chip("/dev/gpiochip0") as chip:
    for offset in range(chip.get_info().num_lines):
        print(chip.get_line_info(offset).name)
"""
PYTEST = ("pytest", "-p", "no:cacheprovider")
USAGE = """\
tools/lab nspawn test [ARGUMENT...]   the service tests, systemd as PID 1 in a container on this kernel
tools/lab vm test [ARGUMENT...]       the device tests in a virtual machine: pins, ports, limits, power cuts
tools/lab vm shell                    a shell in that machine, with edgehost and its tests
tools/lab arm64 test [ARGUMENT...]    unit tests on aarch64 user space, then the GPIO tests in an arm64 machine
tools/lab pi3 boot                    a Raspberry Pi 3 B with Debian's device tree: is it recognised, with its 54 lines?
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
            return vm_test("vm", ["tests/lab/vm", *arguments])
        case ["vm", "shell"]:
            return shell(AMD64)
        case ["arm64", "test", *arguments]:
            return arm64_test(arguments)
        case ["pi3", "boot"]:
            return pi3_boot()
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
        told = ["EDGEHOST_LAB=nspawn", *(f"{name}={os.environ[name]}" for name in ("CI",) if name in os.environ)]
        return container.run([layer, *layers], ["env", *told, *PYTEST, "tests/lab/nspawn", *arguments])


def vm_test(machine: str, arguments: list[str]) -> int:
    """Tests of tests/lab/vm, run on this host: they start machines and drive them."""
    command = [sys.executable, "-m", "pytest", "--timeout=600", *arguments]
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


def arm64_test(arguments: list[str]) -> int:
    """The unit tests that qemu-user can run, then the pins of an arm64 kernel."""
    foreign.register()
    cache = Cache()
    layers = [packages(cache, "arm64"), debian(cache, "arm64")]
    with phase("arm64 user space"), checkout(cache) as layer:
        status = foreign.run([layer, *layers], [*PYTEST, foreign.BEYOND, *foreign.SELECTION, *arguments])
    return vm_test("arm64", ["tests/lab/vm/test_gpio.py", *arguments]) or status


def pi3_boot() -> int:
    """Boot it and show what edgehost makes of it; 1 if that is not what it is."""
    cache = Cache()
    its_kernel = kernel(cache, PI3.architecture)
    its_image = image(cache, PI3.architecture, its_kernel, PI3.modules)
    with (
        checkout(cache) as layer,
        tempfile.TemporaryDirectory(prefix="edgehost-lab-") as folder,
        Machine(PI3, its_kernel, its_image, Path(folder)) as machine,
    ):
        with phase("boot"):
            machine.start()
        machine.put(layer)
        print(machine.run("cat /proc/device-tree/model; echo; edgehost profile"))
        lines = machine.run(f"{ENVIRONMENT}/bin/python -", given=LINES.encode()).splitlines()
        print(*lines)
        profile = json.loads(machine.run("edgehost profile --json"))["profile"]["name"]
    named = [line for line in lines if line != "None"]
    print(f"recognised as {profile}; {len(lines)} lines, {len(named)} of them with a name")
    # Debian's device tree leaves one of them, 28, without.
    return 0 if profile == "raspberry-pi-3b-plus" and (len(lines), len(named)) == (54, 53) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(f"lab: {error}")
