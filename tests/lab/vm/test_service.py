"""The service in a machine of its own: systemd restarts it when it hangs, and its functions answer again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.laboratory.machine import Machine

CALM = {"main.py": "def handler(context, event):\n    return 'calm'\n"}


def test_a_hung_agent_is_restarted_by_the_watchdog(machine: Machine, agent: Any) -> None:
    machine.write("/etc/systemd/system/edgehost.service.d/lab.conf", "[Service]\nWatchdogSec=10\n")
    machine.run("systemctl daemon-reload")
    agent.start({"calm": CALM})
    assert machine.run("systemctl show edgehost -P Type -P ActiveState").split() == ["notify", "active"]
    machine.run("kill -STOP $(systemctl show edgehost -P MainPID)")
    machine.until('[ "$(systemctl show edgehost -P NRestarts)" = 1 ] && systemctl is-active --quiet edgehost', 60)
    assert "watchdog" in machine.run("journalctl --unit=edgehost --no-pager | tail -40").lower()
    agent.until(lambda status: status["calm"]["state"] == "ready")
    assert machine.run("edgehost invoke calm") == "calm"
