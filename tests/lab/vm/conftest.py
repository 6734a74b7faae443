"""A virtual machine for the tests beside this file, and an agent in it. They run on the host and drive the machine from there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    from tools.laboratory.machine import Machine
    from tools.laboratory.prepared import Prepared

UNIT = """\
[Service]
Type=notify
NotifyAccess=main
WatchdogSec=20
Delegate=yes
Restart=always
RestartSec=200ms
RuntimeDirectory=edgehost
StateDirectory=edgehost
ExecStart=/opt/lab/bin/edgehost agent --config /etc/edgehost/edgehost.toml
"""


class Agent:
    """edgehost as a service of the machine. Each function has its files in /srv/functions/NAME, and may write to /srv/out."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def start(self, functions: dict[str, dict[str, str]], config: str = "", unit: str = UNIT) -> None:
        """Install these functions (name: file name: text) and this configuration, and start the service."""
        for name, files in functions.items():
            for file, text in files.items():
                self.machine.write(f"/srv/functions/{name}/{file}", text)
        folders = ", ".join(f'"/srv/functions/{name}"' for name in functions)
        self.machine.write("/etc/edgehost/edgehost.toml", f"[agent]\nfunctions = [{folders}]\n{config}")
        self.machine.write("/etc/systemd/system/edgehost.service", unit)
        self.machine.run("mkdir -p /srv/out && systemctl daemon-reload && systemctl start edgehost")
        status = self.until(lambda status: all(each["state"] in ("ready", "failed") for each in status.values()))
        failed = {name: each["last_error"] for name, each in status.items() if each["state"] == "failed"}
        assert not failed, f"{failed}\n{self.log()}"

    def status(self) -> dict[str, Any]:
        """What `edgehost functions --json` says, by the function's name."""
        said = self.machine.run("edgehost functions --json")
        return {each["name"]: each for each in msgspec.json.decode(said)["functions"]}

    def until(self, holds: Callable[[dict[str, Any]], bool], within_s: float = 60.0) -> dict[str, Any]:
        """The first status of which `holds` is true."""
        deadline = time.monotonic() + within_s
        while not holds(status := self.status()):
            assert time.monotonic() < deadline, f"{status}\n{self.log()}"
            time.sleep(0.5)
        return status

    def trigger(self, function: str, name: str, status: dict[str, Any] | None = None) -> dict[str, Any]:
        """One trigger of a function, as `edgehost functions` shows it."""
        triggers = (status or self.status())[function]["triggers"]
        found: dict[str, Any] = next(each for each in triggers if each["name"] == name)
        return found

    def out(self, name: str) -> str:
        """What a function wrote to /srv/out/NAME."""
        return self.machine.run(f"cat /srv/out/{name}")

    def log(self) -> str:
        """The service's journal."""
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
            installed = made.with_layer(layer, tmp_path_factory.mktemp("installed"))
    yield installed


@pytest.fixture(scope="module")
def machine(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine for the tests of one module, started from the snapshot."""
    from tools.laboratory.prepared import SNAPSHOT

    with prepared.machine(tmp_path_factory.mktemp("machine")) as made:
        made.start(SNAPSHOT)
        yield made


@pytest.fixture
def agent(machine: Machine) -> Iterator[Agent]:
    """`agent.start(...)`; it is stopped after the test, and nothing of its functions stays."""
    yield Agent(machine)
    machine.run("systemctl stop edgehost; rm -rf /srv/functions /srv/out /var/lib/edgehost", check=False)
