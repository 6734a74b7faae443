"""What a board may wake up with: a clock at 1970, and no room in /run. The agent starts, works, and says what is the matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.laboratory.machine import Machine

TICK = {
    "function.toml": """\
handler = "main:handler"
[triggers.beat]
kind = "cron"
every = "200ms"
[triggers.minute]
kind = "cron"
schedule = "* * * * *"
""",
    "main.py": "def handler(context, event):\n    return 'tick'\n",
}
CERTIFICATE = (
    "openssl req -x509 -newkey ed25519 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost -days 30"
    " -keyout /srv/key.pem -out /srv/cert.pem"
)
SERVER = """\
import http.server, ssl
server = http.server.HTTPServer(("127.0.0.1", 8443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/srv/cert.pem", "/srv/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
POLL = """\
handler = "main:handler"
[triggers.page]
kind = "poll"
interval = "500ms"
emit = "always"
http = { url = "https://localhost:8443/", format = "text", ca_file = "/srv/cert.pem" }
"""


def test_a_clock_at_1970_is_borne_and_named(machine: Machine, agent: Any) -> None:
    machine.run(CERTIFICATE)
    machine.write("/srv/server.py", SERVER)
    machine.run("systemd-run --quiet --unit=server --service-type=exec python3 /srv/server.py")
    now = float(machine.run("date +%s"))
    machine.run("date --set=@86400")
    agent.start({"tick": TICK, "page": {**TICK, "function.toml": POLL}})
    status = agent.until(lambda status: status["tick"]["handled"] > 5)
    page = agent.trigger("page", "page", status)
    assert page["state"] == "degraded"
    assert "not yet valid" in page["message"] and "clock" in page["message"], page
    machine.run(f"date --set=@{now + 60:.0f}")  # as NTP does once there is a network
    agent.until(lambda status: agent.trigger("page", "page", status)["state"] == "running")
    before = agent.status()["tick"]["handled"]
    agent.until(lambda status: status["tick"]["handled"] > before + 5)


def test_a_full_run_does_not_keep_the_agent_from_starting(machine: Machine, agent: Any) -> None:
    agent.install({"tick": TICK})
    machine.run("cat /dev/zero >/run/full 2>/dev/null; ! echo more >/run/more", check=False)
    assert machine.run("df --output=avail /run | tail -1").strip() == "0"
    machine.run("systemctl start edgehost")
    agent.until(lambda status: status["tick"]["handled"] > 5)
    machine.run("rm /run/full")
    before = agent.status()["tick"]["handled"]
    agent.until(lambda status: status["tick"]["handled"] > before + 5)
