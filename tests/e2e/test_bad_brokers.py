"""A broker that refuses, vanishes or floods: the function says so, comes back by itself, and the others never notice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Agent, AgentStarter, Broker, BundleMaker

MIB = 1024 * 1024
pytestmark = pytest.mark.needs("mosquitto")

STAMP = """
def handler(context, event):
    return b"seen " + event.body
"""


class Peer:
    """A plain MQTT client beside the agent; it keeps what it receives."""

    def __init__(self, port: int, *topics: str) -> None:
        self.received: list[tuple[str, bytes]] = []
        self._subscribed = threading.Event()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.max_inflight_messages_set(0)
        self.client.on_message = lambda client, data, message: self.received.append((message.topic, message.payload))
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        for topic in topics:
            self.client.subscribe(topic, qos=1)
            assert self._subscribed.wait(30)

    def send(self, topic: str, body: bytes, qos: int = 1) -> None:
        self.client.publish(topic, body, qos).wait_for_publish(30)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        del self.client  # paho closes its wake-up sockets when it is collected, not before


@pytest.fixture
def peer(broker: Any) -> Iterator[Callable[..., Peer]]:
    """`peer(port, *topics)`: a client of the broker, subscribed. (Asks for `broker` so that it is closed before that ends.)"""
    made: list[Peer] = []

    def connect(port: int, *topics: str) -> Peer:
        made.append(Peer(port, *topics))
        return made[-1]

    yield connect
    for one in made:
        if hasattr(one, "client"):
            one.close()


def through(where: str, trigger: str = "", more: str = "") -> str:
    """A manifest: MQTT in at `in/#`, the answers out at `out`."""
    return f"""{more}
[triggers.sensors]
kind = "mqtt"
broker = "{where}"
topics = ["in/#"]
qos = 1
{trigger}

[outputs.answers]
kind = "mqtt"
broker = "{where}"
topic = "out"
qos = 1
"""


def trigger_of(running: Agent, name: str) -> Any:
    return running.functions()[name].triggers[0]


def test_messages_go_in_and_answers_come_out(
    agent: AgentStarter, bundle: BundleMaker, broker: Callable[..., Broker], peer: Callable[..., Peer]
) -> None:
    here = broker()
    running = agent(bundle("stamp", STAMP, through(here.url)))
    running.wait(lambda: trigger_of(running, "stamp").state == "running", "the trigger to run")
    other = peer(here.port, "out")
    for number in range(200):
        other.send(f"in/{number}", str(number).encode())
    running.wait(lambda: len(other.received) >= 200, "200 answers")
    assert sorted(int(body.split()[1]) for _, body in other.received) == list(range(200))
    assert running.wait_until_full("stamp").handled == 200


def test_a_broker_that_nobody_runs_degrades_the_trigger_and_says_so(
    agent: AgentStarter, bundle: BundleMaker, free_port: Callable[[], int]
) -> None:
    running = agent(bundle("stamp", STAMP, through(f"mqtt://127.0.0.1:{free_port()}")), bundle("good"))
    told = running.wait(lambda: (t := trigger_of(running, "stamp")).state == "degraded" and t, "the trigger to be degraded")
    assert "refused" in told.message
    running.wait_for_log("stamp", "refused")
    assert running.invoke("stamp", b"x").body == b"seen x", "the function itself is well"
    assert running.invoke("good", b"x").body == b"x"


def test_a_broker_that_refuses_the_password_is_told_by_name(
    agent: AgentStarter, bundle: BundleMaker, broker: Callable[..., Broker]
) -> None:
    here = broker("allow_anonymous false")
    running = agent(bundle("stamp", STAMP, through(here.url)), bundle("good"))
    told = running.wait(lambda: (t := trigger_of(running, "stamp")).message and t, "the trigger to say what is wrong")
    assert told.state in ("degraded", "failed")
    assert "authori" in told.message.lower() or "password" in told.message.lower(), told
    assert running.invoke("good", b"x").body == b"x"


def test_a_broker_that_is_no_broker_is_told(agent: AgentStarter, bundle: BundleMaker) -> None:
    running = agent(bundle("web", manifest='[triggers.web]\nkind = "http"\n'))
    talker = agent(bundle("stamp", STAMP, through(f"mqtt://127.0.0.1:{running.port}")), bundle("good"))
    talker.wait(lambda: trigger_of(talker, "stamp").state == "degraded", "the trigger to be degraded")
    assert talker.invoke("good", b"x").body == b"x"


def test_a_broker_that_vanishes_comes_back_without_a_restart_of_anything(
    agent: AgentStarter, bundle: BundleMaker, broker: Callable[..., Broker], peer: Callable[..., Peer]
) -> None:
    here = broker()
    running = agent(bundle("stamp", STAMP, through(here.url)), bundle("good"))
    running.wait(lambda: trigger_of(running, "stamp").state == "running", "the trigger to run")
    for word in (b"first", b"second"):
        here.kill()
        running.wait(lambda: trigger_of(running, "stamp").state == "degraded", "the trigger to notice")
        assert running.invoke("good", b"x").body == b"x"
        here.start()
        running.wait(lambda: trigger_of(running, "stamp").state == "running", "the trigger to be back")
        other = peer(here.port, "out")
        other.send("in/x", word)
        running.wait(lambda: other.received, "an answer after the outage")  # noqa: B023 - called within this turn
        assert other.received == [("out", b"seen " + word)]
        other.close()
    running.wait_until_full("stamp")
    assert running.process.poll() is None


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "reject"])
def test_a_flood_is_bounded_counted_and_stops_nobody_else(
    agent: AgentStarter, bundle: BundleMaker, broker: Callable[..., Broker], peer: Callable[..., Peer], policy: str
) -> None:
    slow = "import time\ndef handler(context, event):\n    time.sleep(0.02)\n    return event.body[:8]\n"
    here = broker("allow_anonymous true\nmax_queued_messages 0")
    queue = f'queue = {{ size = 10, policy = "{policy}" }}\n'
    manifest = through(here.url, "max_in_flight = 1000", queue).replace("qos = 1", "qos = 0")
    running = agent(bundle("slow", slow, manifest), bundle("good"))
    running.wait(lambda: trigger_of(running, "slow").state == "running", "the trigger to run")
    before = running.resident_bytes()
    other = peer(here.port)
    for _ in range(20000):
        other.client.publish("in/flood", b"f" * 1000, 0)
    other.send("in/flood", b"the end", 1)
    assert running.invoke("good", b"x").body == b"x", "the flood drowned the other function"
    status = running.wait_until_full("slow")
    assert status.dropped > 0
    assert running.resident_bytes() - before < 64 * MIB
    assert running.invoke("good", b"x").body == b"x"


def test_a_slow_function_at_qos_1_gets_every_message_of_a_flood(
    agent: AgentStarter, bundle: BundleMaker, broker: Callable[..., Broker], peer: Callable[..., Peer]
) -> None:
    """The acknowledgement comes after the answer, so the broker keeps what does not fit: nothing is lost, or piles up here."""
    slow = "import time\ndef handler(context, event):\n    time.sleep(0.001)\n    return event.body\n"
    here = broker("allow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0")
    running = agent(bundle("slow", slow, through(here.url, "max_in_flight = 20", "queue = { size = 30 }\n")), bundle("good"))
    running.wait(lambda: trigger_of(running, "slow").state == "running", "the trigger to run")
    other = peer(here.port, "out")
    for number in range(2000):
        other.client.publish("in/flood", str(number).encode(), 1)
    running.wait(lambda: len(other.received) >= 2000, "an answer to every message")
    assert sorted({int(body) for _, body in other.received}) == list(range(2000))
    status = running.wait_until_full("slow")
    assert (status.dropped, status.failed) == (0, 0)


def test_a_message_larger_than_any_buffer_goes_through(
    agent: AgentStarter, bundle: BundleMaker, broker: Callable[..., Broker], peer: Callable[..., Peer]
) -> None:
    here = broker()
    length = "def handler(context, event):\n    return str(len(event.body))\n"
    running = agent(bundle("size", length, through(here.url)), bundle("good"))
    running.wait(lambda: trigger_of(running, "size").state == "running", "the trigger to run")
    other = peer(here.port, "out")
    other.send("in/large", b"x" * (8 * MIB))
    running.wait(lambda: ("out", str(8 * MIB).encode()) in other.received, "the answer to 8 MiB")
    running.wait_until_full("size")
