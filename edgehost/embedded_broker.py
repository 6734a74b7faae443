"""The embedded MQTT broker (the `broker` extra): rumqttd in a child process, on loopback. Knows processes; must not know
sessions.

It speaks MQTT 5 alone (`mosquitto_sub -V mqttv5`): rumqttd also has a listener for 3.1.1, but that one dies of the first message
with a content type or user properties that is routed to it.
"""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

from edgehost.errors import TriggerError

_CONFIG = """
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 2000
max_segment_size = 10485760
max_segment_count = 10

[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 4194304
max_inflight_count = 1000
dynamic_filters = true
"""


class EmbeddedBroker:
    """A broker that lives as long as the agent. `url` is for MQTT 5 (the agent itself), `port` for MQTT 3.1.1 (everybody
    else).
    """

    def __init__(self, port: int = 1883) -> None:
        try:
            import iotcore
        except ImportError as error:
            raise TriggerError(
                "the embedded broker needs the package iotcore: pip install 'edgehost[broker]', or name a broker: --broker mqtt://host"
            ) from error
        self.port = port if _free(port) else _free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="edgehost-broker-")
        self.url = f"mqtt://127.0.0.1:{self.port}"
        config = Path(self._folder.name) / "rumqttd.toml"
        config.write_text(_CONFIG.format(port=self.port))
        self._broker = iotcore.Broker(config_path=str(config))

    def start(self) -> int:
        """Start it; gives its process id. Blocks until it listens (tenths of a second). Raises TriggerError."""
        try:
            self._broker.start()
        except (OSError, RuntimeError) as error:
            self._folder.cleanup()
            raise TriggerError(f"the embedded broker did not start: {error}") from error
        return int(self._broker._process.pid)  # type: ignore[union-attr]  # set by start()

    def stop(self) -> None:
        self._broker.stop()
        self._folder.cleanup()


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
