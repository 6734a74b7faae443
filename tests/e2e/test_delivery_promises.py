"""An agent that is killed between any two steps of a promise, for real, and started again: what was promised holds.

EDGEHOST_FAULT has the process kill itself where it is (edgehost/delivery/faults.py).
"""

from __future__ import annotations

import http.client
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from edgehost.control.client import Client
from edgehost.delivery.faults import VARIABLE
from tests.e2e.conftest import PATIENCE_S, Agent, AgentStarter, Broker, BundleMaker
from tests.e2e.test_delivery import Ear, ear, noted  # noqa: F401 - a fixture

STEPS = {
    "journal.received": 12,
    "journal.applied": 12,
    "journal.committed": 12,
    "inflow.kept": 5,
    "inflow.given": 5,
    "delivery.answered": 5,
    "delivery.settled": 5,
}
"""The pass at which the agent dies: the first ones are those of its own start."""
NOTE = """
import os
def handler(context, event):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(event.body.decode() + "\\n")
    if event.body.startswith(b"bad"):
        raise ValueError("no")
    return event.body
"""
MANIFEST = """
{trigger}
[retry]
attempts = 1
[env]
NOTES = "{notes}"
[sandbox]
write = ["{folder}"]
"""


def manifest(trigger: str, notes: Path) -> str:
    return MANIFEST.format(trigger=trigger, notes=notes, folder=notes.parent)


def dead(agent: Agent) -> None:
    """Wait for the agent to have killed itself."""
    agent.process.wait(PATIENCE_S)
    assert agent.process.returncode == -signal.SIGKILL, agent.log


def all_answered(agent: Agent) -> bool:
    """Whether no durable event is on disk any more: one may be that was not answered 202."""
    with Client.connect(agent.socket, PATIENCE_S) as client:
        status = client.journal()
        return status.state == "open" and not status.events and not status.partly


def table(state: Path, question: str) -> list[tuple[object, ...]]:
    """What the journal of an agent that has ended holds."""
    with closing(sqlite3.connect(state / "journal.db")) as connection:
        return connection.execute(question).fetchall()


def post_until_dead(agent: Agent, most: int) -> tuple[set[str], set[str]]:
    """Events handed over one after the other: those that were answered 202, and all that were sent."""
    taken: set[str] = set()
    sent: set[str] = set()
    for number in range(most):
        sent.add(f"e{number}")
        try:
            reply = agent.request("POST", "/f", f"e{number}".encode())
        except (OSError, http.client.HTTPException):
            break
        assert reply.status == 202, reply
        taken.add(f"e{number}")
    return taken, sent


@pytest.mark.parametrize("step", STEPS)
def test_a_durable_event_that_was_accepted_runs_wherever_the_agent_dies(
    agent: AgentStarter, bundle: BundleMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    notes, state = tmp_path / "notes", tmp_path / "state"
    folder = bundle("f", NOTE, manifest('[triggers.web]\nkind = "http"\ndurable = true', notes))
    config = f'[agent]\nstate = "{state}"\n'
    with monkeypatch.context() as armed:
        armed.setenv(VARIABLE, f"{step}:{STEPS[step]}")
        first = agent(folder, config=config)
    taken, sent = post_until_dead(first, 100)
    dead(first)
    assert len(taken) < 100
    second = agent(folder, config=config)
    second.wait(lambda: taken <= set(noted(notes)), "every event that was accepted to have run")
    second.wait_until_full("f")
    second.wait(lambda: all_answered(second), "the disk to hold no event")
    second.stop()
    counted = Counter(noted(notes))
    assert set(counted) <= sent
    assert sum(count - 1 for count in counted.values()) <= len(taken), "what was settled does not run again"
    assert table(state, "SELECT count(*) FROM events") == [(0,)]


@pytest.mark.parametrize("step", ["journal.applied", "journal.committed", "dead.written"])
def test_an_event_that_fails_for_good_is_a_dead_letter_once(
    agent: AgentStarter, bundle: BundleMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    notes, state = tmp_path / "notes", tmp_path / "state"
    folder = bundle("f", NOTE, manifest('[triggers.web]\nkind = "http"\ndurable = true', notes))
    config = f'[agent]\nstate = "{state}"\n'
    with monkeypatch.context() as armed:
        armed.setenv(VARIABLE, f"{step}:{1 if step == 'dead.written' else 10}")
        first = agent(folder, config=config)
    taken = set()
    for number in range(20):
        try:
            if first.request("POST", "/f", f"bad{number}".encode()).status == 202:
                taken.add(f"bad{number}")
        except (OSError, http.client.HTTPException):
            break
    dead(first)
    second = agent(folder, config=config)
    second.wait(lambda: taken <= set(noted(notes)), "every event to have run")
    second.wait_until_full("f")
    second.wait(lambda: all_answered(second), "the disk to hold no event")
    second.stop()
    assert table(state, "SELECT count(*) FROM events") == [(0,)]
    letters = table(state, "SELECT event_id, code FROM dead")
    assert len(taken) <= len(letters) <= len(taken) + 1, "the one in hand may have been taken and not been answered"
    assert len({name for name, _ in letters}) == len(letters)
    assert {code for _, code in letters} == {"raised"}


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize("step", [*(each for each in STEPS if not each.startswith("inflow")), "dedupe.known"])
@pytest.mark.parametrize("durable", [False, True])
def test_a_message_with_an_id_is_answered_once_wherever_the_agent_dies(
    agent: AgentStarter,
    bundle: BundleMaker,
    broker: Callable[..., Broker],
    ear: Callable[[Broker, str], Ear],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    durable: bool,
) -> None:
    """Of QoS 1, each sent twice: the broker delivers again what was not acknowledged, and answers leave by way of the disk."""
    notes, state, one = tmp_path / "notes", tmp_path / "state", broker()
    trigger = (
        f'[triggers.in]\nkind = "mqtt"\ntopics = ["in"]\nqos = 1\ndedupe = {{ by = "id" }}\ndurable = {str(durable).lower()}\n'
        '[outputs.up]\nkind = "mqtt"\ntopic = "up"\nqos = 1'
    )
    folder = bundle("f", NOTE, manifest(trigger, notes))
    config = f'[agent]\nstate = "{state}"\n[brokers.default]\nurl = "{one.url}"\nclient_id = "promises"\n'
    heard = ear(one, "up")
    with monkeypatch.context() as armed:
        armed.setenv(VARIABLE, f"{step}:{STEPS.get(step, 3)}")
        first = agent(folder, config=config)
    sender = Sender(one)
    names = [f"m{number:02}" for number in range(30)]
    try:
        for name in names:
            sender.send(name)
        first.wait(lambda: set(heard.bodies) == set(names) or first.process.poll() is not None, "all answers, or the death")
        for _ in range(100):  # under load many share a transaction, so the fault point is passed less often
            for name in names:
                sender.send(name)
            if first.process.poll() is not None:
                break
        dead(first)
        second = agent(folder, config=config)
        second.wait(lambda: set(heard.bodies) == set(names), "the answer to every message")
        for name in names:
            sender.send(name)
        second.wait(lambda: second.functions()["f"].triggers[0].counts.get("duplicates", 0) >= 30, "the third ones to be known")
        second.wait_until_full("f")
        second.wait(lambda: all_answered(second), "the disk to hold no event")
        second.stop()
    finally:
        sender.close()
    ran = Counter(noted(notes))
    assert set(ran) == set(names)
    assert sum(count - 1 for count in ran.values()) <= 64, "only what was in hand at the kill may run twice"
    ids = {(body, told["id"]) for _, body, told in heard.heard}
    assert len(ids) == len(names), "whatever came twice is known by its id"
    assert table(state, "SELECT count(*) FROM events") == [(0,)]
    assert len(table(state, "SELECT key FROM answered")) == len(names)


class Sender:
    """Publishes with QoS 1 and an id of its own, and waits for the broker to have it."""

    def __init__(self, broker: Broker) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "sender", protocol=mqtt.MQTTv5)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def send(self, name: str) -> None:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = ("id", name)
        self._client.publish("in", name.encode(), 1, properties=properties).wait_for_publish(PATIENCE_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._sock_close()
        self._client._reset_sockets()


@pytest.mark.parametrize("how", ["file", "folder", "garbage"])
def test_a_journal_that_is_destroyed_under_a_running_agent_stops_nothing(
    agent: AgentStarter, bundle: BundleMaker, tmp_path: Path, how: str
) -> None:
    notes, state = tmp_path / "notes", tmp_path / "state"
    folder = bundle("f", NOTE, manifest('[triggers.web]\nkind = "http"\ndurable = true', notes))
    first = agent(folder, config=f'[agent]\nstate = "{state}"\n')
    assert first.request("POST", "/f", b"before").status == 202
    first.wait(lambda: noted(notes) == ["before"], "the first event to run")
    path = state / "journal.db"
    if how == "file":
        path.unlink()
    elif how == "folder":
        for entry in state.iterdir():
            if entry.is_file():
                entry.unlink()
        state.rename(tmp_path / "elsewhere")
    else:
        path.write_bytes(os.urandom(100_000))
    for number in range(20):
        assert first.request("POST", "/f", f"e{number}".encode()).status == 202
    first.wait(lambda: len(set(noted(notes))) == 21, "every event to run")
    if how != "garbage":
        first.wait_for_log("was deleted or replaced while it was in use")
    assert first.stop() == 0
    second = agent(folder, config=f'[agent]\nstate = "{state}"\n')
    assert second.request("POST", "/f", b"after").status == 202
    second.wait(lambda: "after" in noted(notes), "the new agent to take events")
    time.sleep(0.1)
    assert Counter(noted(notes))["e3"] == 1
