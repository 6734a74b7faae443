"""The promises of delivery, each with a process that is killed for real: what was taken is answered, what was said arrives."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.e2e.conftest import Agent, AgentStarter, Broker, BundleMaker

NOTE = """
import os, pathlib, time
def handler(context, event):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(event.body.decode() + "\\n")
    time.sleep(float(os.environ.get("SLOW", "0")))
    return event.body
"""
DURABLE_WEB = """
[triggers.web]
kind = "http"
durable = true
{more}
[env]
NOTES = "{notes}"
SLOW = "{slow}"
[sandbox]
write = ["{folder}"]
"""


def web(notes: Path, slow: float = 0.0, more: str = "") -> str:
    return DURABLE_WEB.format(notes=notes, slow=slow, folder=notes.parent, more=more)


def noted(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


class Ear:
    """A subscriber of the test's own: what came, in order."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.heard: list[tuple[str, str, dict[str, str]]] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "ear", protocol=mqtt.MQTTv5)
        self._client.on_message = self._heard
        self._client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self._client.connect("127.0.0.1", broker.port, clean_start=False, properties=_expiry())
        self._client.loop_start()

    def _heard(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        told = dict(getattr(message.properties, "UserProperty", []))
        self.heard.append((message.topic, message.payload.decode(), told))

    @property
    def bodies(self) -> list[str]:
        return [body for _, body, _ in self.heard]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._sock_close()
        self._client._reset_sockets()


def _expiry() -> Properties:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    return properties


@pytest.fixture
def ear(whole_again: None) -> Iterator[Callable[[Broker, str], Ear]]:
    ears: list[Ear] = []

    def listen(broker: Broker, topic: str) -> Ear:
        ears.append(Ear(broker, topic))
        return ears[-1]

    yield listen
    for one in ears:
        one.close()


def kill(agent: Agent) -> None:
    agent.process.send_signal(signal.SIGKILL)
    agent.process.wait()


def test_a_durable_event_that_was_answered_202_runs_after_a_kill(
    agent: AgentStarter, bundle: BundleMaker, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    folder = bundle("slow", NOTE, web(notes, slow=0.3))
    state = f'[agent]\nstate = "{tmp_path / "state"}"\n'
    first = agent(folder, config=state)
    ids = set()
    for number in range(20):
        reply = first.request("POST", "/slow", f"e{number}".encode())
        assert reply.status == 202, reply
        ids.add(json.loads(reply.body)["id"])
    assert len(ids) == 20
    kill(first)
    assert len(noted(notes)) < 20
    second = agent(folder, config=state)
    second.wait(lambda: set(noted(notes)) == {f"e{number}" for number in range(20)}, "every event to have run")
    again = {name for name, count in Counter(noted(notes)).items() if count > 1}
    assert len(again) <= 1, "the one in hand at the kill may run twice, and no other"
    second.stop()
    third = agent(folder, config=state)
    time.sleep(0.5)
    assert len(noted(notes)) <= 21, "what has been answered is done with"
    third.stop()


@pytest.mark.needs("mosquitto")
def test_what_is_published_while_the_broker_is_away_arrives_late_in_order_and_after_a_kill(
    agent: AgentStarter, bundle: BundleMaker, broker: Callable[..., Broker], ear: Callable[[Broker, str], Ear], tmp_path: Path
) -> None:
    one = broker("allow_anonymous true\npersistence true\nautosave_on_changes true\nautosave_interval 1")
    folder = bundle(
        "up",
        "def handler(context, event):\n    return event.body\n",
        '[triggers.web]\nkind = "http"\ndurable = true\n[outputs.up]\nkind = "mqtt"\ntopic = "up/{function}"\nqos = 1\n',
    )
    config = f'[agent]\nstate = "{tmp_path / "state"}"\n[brokers.default]\nurl = "{one.url}"\n'
    first = agent(folder, config=config)
    listener = ear(one, "up/#")
    assert first.request("POST", "/up", b"live").status == 202
    first.wait(lambda: listener.bodies == ["live"], "the first message")
    assert "late" not in listener.heard[0][2]
    one.kill()
    for number in range(50):
        assert first.request("POST", "/up", f"{number:02}".encode()).status == 202
    time.sleep(1.5)
    kill(first)
    one.start()
    second = agent(folder, config=config)
    second.wait(lambda: len(set(listener.bodies)) == 51, "what was published during the outage")
    late = [(body, told) for _, body, told in listener.heard if body != "live"]
    assert {told.get("late") for _, told in late} == {"true"}
    assert len({told["id"] for _, told in late}) == 50
    firsts = list(dict.fromkeys(body for body, _ in late))
    assert firsts == sorted(firsts), "in order"
    second.stop()
