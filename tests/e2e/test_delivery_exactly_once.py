"""Exactly once on the wire: an agent that is killed at any moment publishes no stored message of QoS 2 twice, and loses none."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgehost.control.client import Client
from edgehost.delivery.faults import POINTS, VARIABLE
from tests.e2e.conftest import Agent, AgentStarter, Broker, BundleMaker, wait_until

pytestmark = pytest.mark.needs("mosquitto")

EVENTS = 30
UP = '[triggers.web]\nkind = "http"\ndurable = true\n[outputs.up]\nkind = "mqtt"\ntopic = "up"\nqos = 2\n'
ECHO = "def handler(context, event):\n    return event.body\n"
BROKER = "allow_anonymous true\nmax_queued_messages 0"


class Ear:
    """A subscriber of QoS 2 that stays: what came, as often as it came."""

    def __init__(self, broker: Broker) -> None:
        self.heard: list[str] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "ear", protocol=mqtt.MQTTv5)
        self._client.on_message = lambda _client, _data, message: self.heard.append(message.payload.decode())
        subscribed: list[int] = []
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 3600
        self._client.on_subscribe = lambda *_: subscribed.append(1)
        self._client.on_connect = lambda client, *_: client.subscribe("up", 2)
        self._client.connect("127.0.0.1", broker.port, clean_start=False, properties=kept)
        self._client.loop_start()
        wait_until(lambda: subscribed, "the subscription")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._sock_close()
        self._client._reset_sockets()


@pytest.fixture
def ear(whole_again: None) -> Iterator[Callable[[Broker], Ear]]:
    ears: list[Ear] = []

    def listen(broker: Broker) -> Ear:
        ears.append(Ear(broker))
        return ears[-1]

    yield listen
    for one in ears:
        one.close()


def dead(agent: Agent) -> bool:
    return agent.process.poll() is not None


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("outbox.")])
def test_whenever_the_agent_is_killed_each_message_arrives_once(
    agent: AgentStarter,
    bundle: BundleMaker,
    broker: Callable[..., Broker],
    ear: Callable[[Broker], Ear],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    count: int,
    version: str,
) -> None:
    one = broker(BROKER)
    listener = ear(one)
    folder = bundle("up", ECHO, UP)
    config = (
        f'[agent]\nstate = "{tmp_path / "state"}"\n[brokers.default]\nurl = "{one.url}"\nversion = "{version}"\n'
        'client_id = "sender"\n'
    )
    monkeypatch.setenv(VARIABLE, f"{point}:{count}")
    first = agent(folder, config=config, until="is ready")
    taken: set[str] = set()
    for number in range(EVENTS):
        body = f"e{number:02}"
        try:
            if first.request("POST", "/up", body.encode()).status == 202:
                taken.add(body)
        except OSError:
            break  # it is dead
    first.wait(lambda: dead(first), f"a death at {point}")
    monkeypatch.delenv(VARIABLE)
    second = agent(folder, config=config, until="is ready")
    second.wait(lambda: taken <= set(listener.heard), "every message")
    second.request("POST", "/up", b"last")
    second.wait(lambda: "last" in listener.heard, "the last message")
    second.stop()
    twice = {body: times for body, times in Counter(listener.heard).items() if times > 1}
    assert not twice


def test_over_an_outage_of_the_broker_and_a_kill_each_message_arrives_once(
    agent: AgentStarter, bundle: BundleMaker, broker: Callable[..., Broker], ear: Callable[[Broker], Ear], tmp_path: Path
) -> None:
    one = broker(f"{BROKER}\npersistence true")
    listener = ear(one)
    folder = bundle("up", ECHO, UP)
    config = f'[agent]\nstate = "{tmp_path / "state"}"\n[brokers.default]\nurl = "{one.url}"\nclient_id = "sender"\n'
    first = agent(folder, config=config, until="is ready")
    for number in range(20):
        if number == 10:
            assert one.process is not None
            one.process.send_signal(signal.SIGTERM)  # it keeps its sessions, open exchanges and all
        assert first.request("POST", "/up", b"%02d" % number).status == 202
    first.process.kill()
    first.process.wait()
    one.kill()
    one.start()
    second = agent(folder, config=config, until="is ready")
    expected = [f"{number:02}" for number in range(20)]
    second.wait(lambda: set(expected) <= set(listener.heard), "every message")
    second.request("POST", "/up", b"last")
    second.wait(lambda: "last" in listener.heard, "the last message")
    assert listener.heard == [*expected, "last"]


def test_an_orderly_stop_with_the_outbox_full_and_the_broker_away_ends_in_time_and_loses_nothing(
    agent: AgentStarter, bundle: BundleMaker, broker: Callable[..., Broker], ear: Callable[[Broker], Ear], tmp_path: Path
) -> None:
    one = broker(BROKER)
    one.kill()
    folder = bundle("up", ECHO, f'{UP}store = {{ full = "block", quota_bytes = 300 }}\n')
    config = f'[agent]\nstate = "{tmp_path / "state"}"\n[brokers.default]\nurl = "{one.url}"\nclient_id = "sender"\n'
    first = agent(folder, config=config, until="is ready")
    expected = [f"{number:02}" for number in range(20)]
    for body in expected:
        assert first.request("POST", "/up", body.encode()).status == 202
    assert first.stop() == 0
    assert "never awaited" not in first.log and "never retrieved" not in first.log and "Traceback" not in first.log
    one.start()
    listener = ear(one)
    second = agent(folder, config=config, until="is ready")
    second.wait(lambda: set(expected) <= set(listener.heard), "every message")
    assert listener.heard == expected


@pytest.mark.parametrize("then", ["removed", "upgraded"])
def test_a_function_whose_outbox_is_full_ends_with_the_broker_away_and_loses_nothing(
    then: str,
    agent: AgentStarter,
    bundle: BundleMaker,
    broker: Callable[..., Broker],
    ear: Callable[[Broker], Ear],
    tmp_path: Path,
) -> None:
    one = broker(f"{BROKER}\npersistence true")
    listener = ear(one)
    assert one.process is not None
    one.process.terminate()  # it keeps the listener's session: the agent may be there before the listener is again
    one.process.wait()
    one.kill()
    full = f'{UP}store = {{ full = "block", quota_bytes = 300 }}\n'
    folder = bundle("up", ECHO, full)
    rest = f'state = "{tmp_path / "state"}"\n[brokers.default]\nurl = "{one.url}"\nclient_id = "sender"\n'
    with_it = f'[agent]\nfunctions = ["{folder}"]\n{rest}'
    first = agent(config=with_it, until="is ready")
    config = tmp_path / "agent0" / "edgehost.toml"
    expected = [f"{number:02}" for number in range(20)]
    for body in expected:
        assert first.request("POST", "/up", body.encode()).status == 202
    if then == "removed":
        config.write_text(f"[agent]\nfunctions = []\n{rest}")
    else:
        manifest = folder / "function.toml"
        manifest.write_text(manifest.read_text().replace("[triggers.web]", "[triggers.other]"))
    reload(first)
    if then == "removed":
        assert not first.functions()
        config.write_text(with_it)
        reload(first)
    one.start()
    first.wait(lambda: set(expected) <= set(listener.heard), "every message")
    assert listener.heard == expected


def reload(agent: Agent) -> None:
    with Client.connect(agent.socket, 30.0) as client:
        assert client.reload().problems == []
