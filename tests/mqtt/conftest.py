"""A real mosquitto, sessions of ours, a peer that speaks through paho-mqtt's own code, and a trigger's host in memory."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import queue
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgehost.config import Broker, Config
from edgehost.event import Event, Origin, Response
from edgehost.mqtt import Message, Session

DEADLINE_S = 20.0


async def until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Wait for something to become true."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited {DEADLINE_S:g} s for {what}"
        await asyncio.sleep(0.01)


@pytest.fixture(name="until")
def _until() -> Callable[..., Awaitable[None]]:
    return until


@dataclass
class Mosquitto:
    """A broker on loopback that can be killed and started again with what it has persisted."""

    program: str
    folder: Path
    port: int
    config: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        path = self.folder / "mosquitto.conf"
        path.write_text(self.config)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.program, "-v", "-c", str(path)], stdout=log, stderr=log, cwd=self.folder)
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end, (self.folder / "log").read_text()
                time.sleep(0.01)

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(DEADLINE_S)
            self.process = None


MosquittoMaker = Callable[..., Mosquitto]


@pytest.fixture
def mosquitto(tmp_path: Path, free_port: Callable[[], int], component: Callable[[str], str]) -> Iterator[MosquittoMaker]:
    """`mosquitto(config="", listener="")`: a running broker; `listener` adds to its listener, `config` to the whole."""
    started: list[Mosquitto] = []

    def make(config: str = "allow_anonymous true", listener: str = "") -> Mosquitto:
        folder = tmp_path / f"mosquitto{len(started)}"
        folder.mkdir()
        user = os.environ.get("USER") or "root"  # as root it would become another user, who may not read the test's folder
        port = free_port()
        text = f"user {user}\nlistener {port} 127.0.0.1\n{listener}\nset_tcp_nodelay true\n{config}\n"
        broker = Mosquitto(component("mosquitto"), folder, port, text)
        started.append(broker)
        broker.start()
        return broker

    yield make
    for broker in started:
        broker.end()


SessionMaker = Callable[..., Awaitable[Session]]


@pytest.fixture
async def session() -> AsyncIterator[SessionMaker]:
    """`await session(url, **broker settings)`: a started session, connected unless `wait=False`."""
    made: list[Session] = []

    async def make(url: str, wait: bool = True, **settings: Any) -> Session:
        settings = {"session_expiry_s": 0, "client_id": f"ours-{len(made)}", **settings}
        one = Session("default", Broker(url=url, **settings), logging.getLogger("edgehost.mqtt"))
        made.append(one)
        await one.start()
        if wait:
            await until(lambda: one.state == "connected", f"a connection ({one.reason})")
        return one

    yield make
    for one in made:
        await one.close(0.5)


class Inbox:
    """A handler that keeps what it gets, and acknowledges it unless told to hold back."""

    def __init__(self, session: Session, hold: bool = False) -> None:
        self.messages: list[Message] = []
        self._session = session
        self._hold = hold

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        if not self._hold:
            self._session.ack(message)

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


@pytest.fixture
def inbox() -> type[Inbox]:
    return Inbox


class Peer:
    """Another client, in a thread of paho-mqtt's own: shares no code with what is tested."""

    def __init__(self, url: str, protocol: int = MQTTProtocolVersion.MQTTv5, **tls: Any) -> None:
        host, port = url.split("//")[1].split(":")
        self.received: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion(protocol))
        self.client.max_inflight_messages_set(1000)
        self.client.on_message = lambda _client, _data, message: self.received.put(message)
        if tls:
            self.client.tls_set(**tls)
        self.client.connect(host, int(port))
        self.client.loop_start()

    def subscribe(self, text: str, qos: int = 0) -> None:
        done = queue.Queue[Any]()
        self.client.on_subscribe = lambda *_: done.put(None)
        self.client.subscribe(text, qos)
        done.get(timeout=DEADLINE_S)

    def publish(self, topic: str, payload: bytes = b"", qos: int = 0, retain: bool = False, **properties: Any) -> None:
        packed = Properties(PacketTypes.PUBLISH)
        for name, value in properties.items():
            setattr(packed, name, value)
        self.client.publish(topic, payload, qos, retain, packed if properties else None).wait_for_publish(DEADLINE_S)

    def next(self) -> paho.MQTTMessage:
        return self.received.get(timeout=DEADLINE_S)

    async def anext(self) -> paho.MQTTMessage:
        return await asyncio.to_thread(self.next)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        del self.client  # paho closes its socket pair only when it is collected
        gc.collect()


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    made: list[Peer] = []

    def make(url: str, **options: Any) -> Peer:
        made.append(Peer(url, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


Answer = Callable[[Event], "Response | Awaitable[Response]"]


@dataclass
class FakeHost:
    """A trigger's and an output's host: events are answered by `answer`, at once or when its awaitable is done."""

    session: Session
    answer: Answer
    function_name: str = "echo"
    name: str = "out"
    standalone: bool = False
    config: Config = field(default_factory=Config)
    origin: Origin = field(default_factory=lambda: Origin("mqtt", "in"))
    log: Any = field(default_factory=lambda: logging.getLogger("edgehost.test"))
    events: list[Event] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    state: str = "starting"
    reports: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    durable: bool = False
    dedupes: bool = False
    behind: bool = False

    def broker(self, name: str) -> Session:
        assert name == "default"
        return self.session

    def report(self, state: str, message: str = "") -> None:
        self.state = state
        self.reports.append((state, message))

    def submit(self, event: Event) -> asyncio.Future[Response]:
        self.events.append(event)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        future = asyncio.ensure_future(self._answer(event))
        future.add_done_callback(self._answered)
        return future

    ask = submit

    def _answered(self, _future: object) -> None:
        self.running -= 1

    async def _answer(self, event: Event) -> Response:
        answer = self.answer(event)
        return answer if isinstance(answer, Response) else await answer


def echo(event: Event) -> Response:
    return Response(200, event.content_type, {}, event.body)


@pytest.fixture
def host() -> Callable[..., FakeHost]:
    """`host(session, answer=echo)`: what the agent gives a plugin."""

    def make(session: Session, answer: Answer = echo) -> FakeHost:
        return FakeHost(session, answer)

    return make
