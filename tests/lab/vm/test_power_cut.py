"""A power cut in the middle of the work: the machine boots, the agent comes up, what it remembers is old or new, never torn."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.laboratory.machine import Machine

MANIFEST = """\
handler = "main:handler"
[triggers.rows]
kind = "poll"
interval = "100ms"
cursor = "id"
sql = { database = "/srv/data/rows.db", query = "SELECT id FROM rows WHERE id > :cursor ORDER BY id" }
[triggers.lines]
kind = "file"
path = "/srv/data"
pattern = "*.log"
mode = "tail"
"""
HANDLER = "def handler(context, event):\n    return 'seen'\n"
WRITER = """\
import os, sqlite3, time
os.makedirs("/srv/data", exist_ok=True)
rows = sqlite3.connect("/srv/data/rows.db", isolation_level=None)
rows.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY)")
with open("/srv/data/lines.log", "a", buffering=1) as lines:
    while True:
        rows.execute("INSERT INTO rows DEFAULT VALUES")
        lines.write(f"{time.monotonic()}\\n")
        time.sleep(0.05)
"""
STARTED = "systemd-run --quiet --unit=writer --service-type=exec python3 /srv/writer.py"


def remembered(machine: Machine) -> dict[str, Any]:
    """The state files, decoded."""
    names = machine.run("find /var/lib/edgehost -type f -name '*.json'").split()
    return {name.rsplit("/", 1)[1]: json.loads(machine.run(f"cat {name}")) for name in names}


def handled(status: dict[str, Any]) -> int:
    return int(status["keeper"]["handled"])


def states(status: dict[str, Any]) -> set[str]:
    return {trigger["state"] for trigger in status["keeper"]["triggers"]}


def test_a_power_cut_leaves_what_was_remembered_whole(machine: Machine, agent: Any) -> None:
    machine.write("/srv/writer.py", WRITER)
    machine.run(f"{STARTED} && sleep 2")
    agent.start({"keeper": {"function.toml": MANIFEST, "main.py": HANDLER}})
    machine.run("systemctl enable edgehost && sync")
    agent.until(lambda status: handled(status) > 100)
    machine.until("ls /var/lib/edgehost/file/*.json /var/lib/edgehost/poll/*/*.json")
    time.sleep(6)  # so that the cut falls between the saves, and into one now and then
    agent.hang_up()
    machine.power_cut()
    print(f"\nbooted again in {machine.start():.1f} s")
    machine.until("systemctl is-active edgehost", 60)
    assert machine.run("find /var/lib/edgehost -name '*.damaged'") == ""
    assert set(remembered(machine)) == {"keeper.lines.json", "rows.json"}
    machine.run(STARTED)
    before = handled(agent.until(lambda status: status["keeper"]["state"] == "ready"))
    # The cut may have left rows.db in the middle of a write, which only its writer can undo: it is read a little after that.
    agent.until(lambda status: handled(status) > before + 20 and states(status) == {"running"})
