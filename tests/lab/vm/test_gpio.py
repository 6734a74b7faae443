"""Pins of a real kernel: gpio-sim's lines through gpiod, held to the drivers' contract, and through an agent to a handler."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.lab.conftest import Figure
    from tools.laboratory.machine import Machine

EDGES = 1000
PACE_S = 0.01

MANIFEST = """\
handler = "main:handler"
[triggers.pin]
kind = "gpio"
lines = ["PULSES"]
[sandbox]
write = ["/var/lib/edgehost/out"]
"""
HANDLER = """\
import time

out = open("/var/lib/edgehost/out/edges", "a", buffering=1)

def handler(context, event):
    out.write(f"{event.body['seqno']} {event.body['value']} {time.monotonic_ns() - event.body['monotonic_ns']}\\n")
"""
CHIP = """\
cd /sys/kernel/config/gpio-sim && mkdir -p lab/bank0/line3 && cd lab
echo 8 >bank0/num_lines && echo lab >bank0/label && echo PULSES >bank0/line3/name && echo 1 >live
"""
LAMP = """\
handler = "main:handler"
[triggers.beat]
kind = "cron"
every = "1h"
[outputs.lamp]
kind = "gpio"
line = "lab:5"
safe = "on"
"""
# Whose a line is, as the kernel tells everyone who asks.
WATCHED = """\
import glob, gpiod
for path in glob.glob("/dev/gpiochip*"):
    chip = gpiod.Chip(path)
    if chip.get_info().label == "lab":
        break
chip.watch_line_info(5)
print("watching", flush=True)
while True:
    event = chip.read_info_event()
    print(event.event_type.name.removeprefix("LINE_").lower(), event.line_info.consumer, flush=True)
"""
# gpio-sim merges edges that come faster than its interrupt thread runs. On the processor of the one who pulls, that thread (of a
# real-time class) runs before the next pull, however slow the emulation is.
PULLS = f"""\
import os, pathlib, time
os.sched_setaffinity(0, {{0}})
for name in pathlib.Path("/proc").glob("[0-9]*/comm"):
    if name.read_text().startswith("irq/"):
        os.sched_setaffinity(int(name.parent.name), {{0}})
folder = pathlib.Path("/sys/kernel/config/gpio-sim/lab")
device, chip = (folder / "dev_name").read_text().strip(), (folder / "bank0/chip_name").read_text().strip()
with open(f"/sys/devices/platform/{{device}}/{{chip}}/sim_gpio3/pull", "w") as pull:
    due = time.monotonic()
    for number in range({EDGES}):
        pull.write("pull-down" if number % 2 else "pull-up")
        pull.flush()
        due += {PACE_S}
        time.sleep(max(0.0, due - time.monotonic()))
"""


# With one processor the thread of an interrupt runs before the next pull, and gpio-sim has nothing to merge.
ALONE = "/sys/devices/system/cpu/cpu1/online"


def test_the_drivers_contract_holds_on_this_kernel(machine: Machine) -> None:
    machine.run(f"echo 0 >{ALONE}")
    try:
        assert machine.show("cd /srv/edgehost && pytest -q --tb=short -p no:cacheprovider tests/gpio/test_contract.py") == 0
    finally:
        machine.run(f"echo 1 >{ALONE}")


@pytest.fixture(scope="module")
def chip(machine: Machine) -> None:
    """A chip labelled `lab` of eight lines."""
    machine.run(CHIP)


@pytest.mark.figures
@pytest.mark.usefixtures("chip")
def test_a_thousand_edges_reach_the_handler_in_order(machine: Machine, agent: Any, figure: Figure) -> None:
    agent.start({"pulses": {"function.toml": MANIFEST, "main.py": HANDLER}})
    machine.run("python3 -", given=PULLS.encode())
    machine.until(f"[ $(wc -l </var/lib/edgehost/out/edges) -ge {EDGES} ]", 10)
    seen = [tuple(map(int, line.split())) for line in agent.out("edges").splitlines()]
    took_ms = [took / 1e6 for _, _, took in seen]
    figure(f"gpio-sim in a virtual machine: lost of {EDGES:,} edges", EDGES - len(seen), "edges", 0)
    figure("gpio-sim in a virtual machine: edge to handler, p50", statistics.median(took_ms), "ms", None)
    figure("gpio-sim in a virtual machine: edge to handler, p99", statistics.quantiles(took_ms, n=100)[98], "ms", None)
    assert [(seqno, value) for seqno, value, _ in seen] == [(number + 1, 1 - number % 2) for number in range(EDGES)]
    assert "lost" not in agent.trigger("pulses", "pin")["counts"]


@pytest.mark.usefixtures("chip")
def test_a_killed_agents_line_gets_its_safe_level_before_the_next_agent_has_it(machine: Machine, agent: Any) -> None:
    agent.start({"lamp": {"function.toml": LAMP, "main.py": "def handler(context, event):\n    return '1'\n"}})
    machine.write("/run/watched.py", WATCHED)
    watcher = machine.begin("/opt/lab/bin/python /run/watched.py")
    assert watcher.stdout.readline() == b"watching\n"
    machine.run("kill -KILL $(systemctl show edgehost -P MainPID)")
    seen = [watcher.stdout.readline().decode().strip() for _ in range(4)]
    watcher.kill()
    watcher.communicate()
    assert [one for one in seen if one.startswith("requested")] == ["requested edgehost gpio safe", "requested lamp/lamp"], seen
    assert "line 5 of lamp/lamp: on, its safe level" in agent.log()
    machine.run("systemctl stop edgehost")
    assert "gpio-safe" not in machine.run("ls -R /run/edgehost 2>/dev/null", check=False)
