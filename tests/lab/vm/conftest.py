"""A virtual machine for the tests beside this file, and an agent in it. They run on the host and drive the machine from there."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    from tools.laboratory.machine import Machine
    from tools.laboratory.prepared import Prepared

OUT = "/var/lib/edgehost/out"
INSTALL = "edgehost install --no-start --no-hardware-watchdog --no-small-journal"
# One process for all questions: under emulation it takes seconds to start Python.
ASKED = """
import sys, msgspec
from edgehost.control.client import Client
from edgehost.errors import EdgehostError

for line in sys.stdin:
    try:
        with Client.connect(timeout_s=60.0) as client:
            print(msgspec.json.encode(client.functions()).decode(), flush=True)
    except EdgehostError as error:
        print(msgspec.json.encode([{"name": "agent", "state": str(error)}]).decode(), flush=True)
"""


class Agent:
    """edgehost as the service its own command installs. Functions have their files in /srv/functions, and may write to OUT."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._asked: subprocess.Popen[bytes] | None = None

    def install(self, functions: dict[str, dict[str, str]]) -> None:
        """Put functions (name: file name: text) where the service finds them, and nothing else."""
        for name, files in functions.items():
            for file, text in files.items():
                self.machine.write(f"/srv/functions/{name}/{file}", text)
        folders = ", ".join(f'"/srv/functions/{name}"' for name in functions)
        self.machine.write("/etc/edgehost/edgehost.toml", f"[agent]\nfunctions = [{folders}]\n")
        self.machine.run(f"install --directory --owner=edgehost {OUT}")

    def start(self, functions: dict[str, dict[str, str]]) -> None:
        """Install these functions, start the service, and wait until they are ready."""
        self.install(functions)
        self.machine.run("systemctl start edgehost")
        status = self.until(lambda status: all(each["state"] in ("ready", "failed") for each in status.values()))
        failed = {name: each["last_error"] for name, each in status.items() if each["state"] == "failed"}
        assert not failed, f"{failed}\n{self.log()}"

    def stop(self) -> None:
        """Stop the service; nothing of its functions stays."""
        self.hang_up()
        self.machine.run(f"systemctl stop edgehost; rm -rf /srv/functions {OUT} /var/lib/edgehost/file /var/lib/edgehost/poll")

    def hang_up(self) -> None:
        """End the process that asks, before a power cut for one."""
        if self._asked is not None:
            self._asked.kill()
            self._asked.communicate()
            self._asked = None

    def status(self) -> dict[str, Any]:
        """What `edgehost functions --json` says, by the function's name; where no agent answers, why, as the state of `agent`."""
        if self._asked is None:
            self.machine.write("/run/asked.py", ASKED)
            self._asked = self.machine.begin("/opt/lab/bin/python /run/asked.py")
        assert self._asked.stdin is not None and self._asked.stdout is not None
        self._asked.stdin.write(b"\n")
        self._asked.stdin.flush()
        return {each["name"]: each for each in msgspec.json.decode(self._asked.stdout.readline())}

    def until(self, holds: Callable[[dict[str, Any]], bool], within_s: float = 120.0) -> dict[str, Any]:
        """The first status of an agent that answers of which `holds` is true."""
        deadline = time.monotonic() + within_s
        while "agent" in (status := self.status()) or not holds(status):
            assert time.monotonic() < deadline, f"{status}\n{self.log()}"
            time.sleep(0.2)
        return status

    def trigger(self, function: str, name: str, status: dict[str, Any] | None = None) -> dict[str, Any]:
        """One trigger of a function, as `edgehost functions` shows it."""
        triggers = (status or self.status())[function]["triggers"]
        found: dict[str, Any] = next(each for each in triggers if each["name"] == name)
        return found

    def out(self, name: str) -> str:
        """What a function wrote to OUT/NAME."""
        return self.machine.run(f"cat {OUT}/{name}")

    def log(self) -> str:
        """The end of the service's journal."""
        return self.machine.run("journalctl --unit=edgehost --no-pager --output=cat | tail -60", check=False)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """Machines start with this checkout installed; what takes minutes comes from the lab's cache."""
    from tools.laboratory import board
    from tools.laboratory.cache import Cache
    from tools.laboratory.command import phase
    from tools.laboratory.prepared import prepared
    from tools.laboratory.root import checkout

    cache = Cache()
    kind = {"vm": board.AMD64, "arm64": board.ARM64}[os.environ["EDGEHOST_LAB"]]
    with checkout(cache) as layer:
        made = prepared(cache, kind)
        with phase("checkout installed"):
            installed = made.with_layer(layer, tmp_path_factory.mktemp("installed"), INSTALL)
    yield installed


@pytest.fixture(scope="module")
def machine(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine for the tests of one module, started from the snapshot."""
    from tools.laboratory.prepared import SNAPSHOT

    with prepared.machine(tmp_path_factory.mktemp("machine")) as made:
        made.start(SNAPSHOT)
        yield made


@pytest.fixture(scope="session")
def agent_in() -> Callable[[Machine], Agent]:
    """`agent_in(machine)`, for a module that keeps one."""
    return Agent


@pytest.fixture
def agent(machine: Machine) -> Iterator[Agent]:
    """`agent.start(...)`; it is stopped after the test."""
    made = Agent(machine)
    yield made
    made.stop()
