"""`durable` on every kind of trigger, with the real host and the real journal: whoever is told that an event is received is told
after it is on disk, and a kill at that moment loses nothing.

The kill is a copy of the journal's files, taken in the very call that tells the source; another agent goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import sqlite3
import tty
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edgehost import plugin
from edgehost.config import Config, Gpio, Http
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.tries import Target
from edgehost.errors import TriggerError
from edgehost.event import Event, Response
from edgehost.gpio import pins
from edgehost.gpio.sim import SimBoard
from edgehost.hosts import TriggerHost
from edgehost.manifest.conversion import to_struct
from edgehost.manifest.model import Dedupe, Manifest, Retry, TriggerSpec
from edgehost.mqtt import Message
from edgehost.state import StateFile
from edgehost.triggers.file.memory import Memory
from edgehost.triggers.file.put_away import PutAway

Until = Callable[[Callable[[], object]], Awaitable[None]]
pytestmark = pytest.mark.usefixtures("whole_again")


class Broker:
    """What a trigger sees of an MQTT session."""

    def __init__(self) -> None:
        self.broker = SimpleNamespace(url="mqtt://broker")
        self.state, self.reason, self.tried, self.ending = "connected", "", True, False
        self.on_state: list[Any] = []
        self.handler: Any = None
        self.on_ack: Callable[[], None] = lambda: None

    async def subscribe(self, text: str, qos: int, handler: Any, refused: Any) -> Any:
        self.handler = handler

        async def close() -> None:
            self.handler = None

        return SimpleNamespace(close=close)

    def ack(self, message: Message) -> None:
        self.on_ack()

    def give_back(self, message: Message) -> None: ...

    def pause(self, who: object) -> None: ...

    def resume(self, who: object) -> None: ...


class Version:
    """A version whose function takes events, and answers none before `open` is set."""

    def __init__(self) -> None:
        self.function = self
        self.manifest: Any = None
        self.open = asyncio.Event()
        self.events: list[Event] = []
        self._answering: set[asyncio.Task[None]] = set()

    def submit(self, event: Event, kept: Any = None, patient: bool = True) -> asyncio.Future[Response]:
        self.events.append(event)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        task = asyncio.get_running_loop().create_task(self._answer(future))
        self._answering.add(task)
        return future

    async def _answer(self, future: asyncio.Future[Response]) -> None:
        await self.open.wait()
        if not future.done():
            future.set_result(Response(200))

    def target(self, submit: Any, hold: Any) -> Target:
        return Target(submit, Retry(), (), lambda: None, hold)

    @property
    def bodies(self) -> list[bytes]:
        return [event.body for event in self.events]


class Agent:
    """As much of an agent as one trigger and its promises need."""

    def __init__(self, folder: Path, limit_bytes: int = 1 << 30) -> None:
        self.folder = folder
        self.config = Config(
            http=Http(listen="127.0.0.1:0"), gpio=Gpio(driver="sim"), profile="raspberry-pi-4b", state=folder / "state"
        )
        self.standalone, self.board, self.nursery = False, None, SimpleNamespace(kept=set())
        self.path = folder / "journal.db"
        self.journal = Journal(self.path)
        self.outbox = Outbox(self.journal, 1 << 20, 1000.0)
        self.allowance = Allowance(limit_bytes)
        self.session = Broker()
        self.board_lines = SimBoard()
        self.parts: dict[str, Any] = {pins.SIM: self.board_lines}
        self.version = Version()
        self.host: Any = None
        self.trigger: Any = None

    def broker(self, name: str) -> Any:
        return self.session

    def shared(self, key: str, make: Callable[[], Any]) -> Any:
        return self.parts[key] if key in self.parts else self.parts.setdefault(key, make())

    async def open(self, kind: str, settings: dict[str, Any], durable: bool = True, dedupe: Dedupe | None = None) -> Any:
        """The trigger's host, led to the function: what lies on disk goes on."""
        made = to_struct(settings, plugin.load("trigger", kind).Settings)
        spec = TriggerSpec("in", kind, made, durable=durable, dedupe=dedupe)
        manifest = Manifest("f", self.folder, self.folder / "function.toml", triggers=(spec,))
        self.version.manifest = manifest
        self.host = TriggerHost(manifest, spec, self, lambda future: False)  # type: ignore[arg-type]
        await self.host.open(self.version)
        return self.host

    async def start(self, kind: str, settings: dict[str, Any], **what: Any) -> None:
        host = await self.open(kind, settings, **what)
        trigger = plugin.load("trigger", kind)(self.version.manifest.triggers[0].settings, host)
        await trigger.start()
        self.trigger = trigger

    async def close(self) -> None:
        if self.host is not None:
            stopping = asyncio.ensure_future(self.trigger.stop()) if self.trigger is not None else None
            await asyncio.sleep(0)
            self.host.way.hurry()
            self.version.open.set()
            if stopping is not None:
                await asyncio.wait_for(stopping, 20)
            await self.host.way.drained()
        for part in self.parts.values():
            if hasattr(part, "close"):
                await part.close()
        await self.journal.close()

    def on_disk(self, copy: Path) -> list[bytes]:
        """The bodies that another agent would find, were this one killed now; `copy` is what it would find them in."""
        copy.mkdir()
        for suffix in ("-wal", ""):  # in this order: what a checkpoint moves between the two is there twice, and not missing
            shutil.copy(f"{self.path}{suffix}", f"{copy / 'journal.db'}{suffix}")
        connection = sqlite3.connect(copy / "journal.db")
        try:
            rows = connection.execute("SELECT event FROM events ORDER BY place").fetchall()
        finally:
            connection.close()
        return [msgspec.msgpack.decode(row[0], type=Event).body for row in rows]


@dataclass
class Scene:
    """One agent, one event at its source, and the moments at which the source was told that it is received."""

    agent: Agent
    folder: Path
    until: Until
    site: Any
    patch: pytest.MonkeyPatch
    told: list[list[bytes]] = field(default_factory=list)
    closing: list[Callable[[], object]] = field(default_factory=list)
    clients: list[Any] = field(default_factory=list)

    def tell(self, *_: Any, **__: Any) -> None:
        """The source is told, now: what is on disk?"""
        self.told.append(self.agent.on_disk(self.folder / f"killed{len(self.told)}"))

    def before(self, owner: type, name: str) -> None:
        """Telling the source is a call of this method."""
        real = getattr(owner, name)

        def telling(*args: Any, **kwargs: Any) -> Any:
            self.tell()
            return real(*args, **kwargs)

        self.patch.setattr(owner, name, telling)


async def mqtt(scene: Scene) -> None:
    await scene.agent.start("mqtt", {"topics": ["in"], "qos": 1})
    scene.agent.session.on_ack = scene.tell
    scene.agent.session.handler(Message("in", b"x", qos=1, packet_id=7))


async def http(scene: Scene) -> None:
    await scene.agent.start("http", {})
    scene.site.address = scene.agent.parts["http"].address

    async def ask() -> None:
        scene.clients.append(await scene.site.ask(target="/f", body=b"x"))
        scene.tell()

    scene.clients.append(asyncio.ensure_future(ask()))


async def whole_file(scene: Scene) -> None:
    scene.before(PutAway, "put")
    inbox = scene.folder / "inbox"
    inbox.mkdir()
    await scene.agent.start("file", {"path": str(inbox), "when_done": "delete", "settle_s": 0.03, "rescan_s": 0.1})
    (scene.folder / "x").write_bytes(b"x")
    (scene.folder / "x").rename(inbox / "x")


async def tailed_file(scene: Scene) -> None:
    scene.before(Memory, "changed")
    logs = scene.folder / "logs"
    logs.mkdir()
    (logs / "log").write_bytes(b"x\n")
    await scene.agent.start("file", {"path": str(logs), "mode": "tail", "rescan_s": 0.1})


async def poll(scene: Scene) -> None:
    scene.before(StateFile, "save")
    database = scene.folder / "shop.db"
    connection = sqlite3.connect(database)
    connection.executescript("CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1);")
    connection.close()
    sql = {"database": str(database), "query": "SELECT id FROM t"}
    await scene.agent.start("poll", {"interval_s": 0.1, "cursor": "id", "sql": sql})


async def serial(scene: Scene) -> None:
    far, near = os.openpty()
    tty.setraw(near)
    scene.closing.append(lambda: (os.close(far), os.close(near)))
    await scene.agent.start("serial", {"port": os.ttyname(near)})
    os.write(far, b"x\n")


async def gpio(scene: Scene) -> None:
    await scene.agent.start("gpio", {"lines": ["SENSOR_A"], "edges": "rising"})
    board = scene.agent.board_lines
    place = next(line.place for chip in board.chips() for line in board.lines(chip) if line.name == "SENSOR_A")
    board.pull(place, True)


async def command(scene: Scene) -> None:
    await scene.agent.start("exec", {"command": ["sh", "-c", "echo x; exec sleep 1000"]})


async def stream(scene: Scene) -> None:
    await scene.agent.start("socket", {"listen": f"unix://{scene.folder}/s"})
    client = socket.socket(socket.AF_UNIX)
    scene.closing.append(client.close)
    await scene.until(lambda: scene.agent.host.message.startswith("listens"))
    client.connect(f"{scene.folder}/s")
    client.send(b"x\n")


async def datagram(scene: Scene) -> None:
    await scene.agent.start("socket", {"listen": "udp://127.0.0.1:0"})
    await scene.until(lambda: scene.agent.host.message.startswith("listens"))
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    scene.closing.append(client.close)
    client.sendto(b"x", ("127.0.0.1", int(scene.agent.host.message.rpartition(":")[2])))


async def modbus(scene: Scene) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(12):
            writer.write(head[:4] + b"\0\5" + head[6:8] + b"\2\0\1")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    scene.closing.append(server.close)
    url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await scene.agent.start("modbus", {"url": url, "interval_s": 1000.0, "registers": {"x": {"address": 0}}})


async def cron(scene: Scene) -> None:
    await scene.agent.start("cron", {"every_s": 1000.0, "on_start": True, "body": "x"})


TELLING = [mqtt, http, whole_file, tailed_file, poll]
"""Kinds whose source learns that an event was received."""
SILENT = [serial, gpio, command, stream, datagram, modbus, cron]
SETTINGS: dict[Any, tuple[str, dict[str, Any]]] = {
    mqtt: ("mqtt", {"topics": ["in"]}),
    whole_file: ("file", {"path": "x"}),
    tailed_file: ("file", {"path": "x", "mode": "tail"}),
    poll: ("poll", {"interval_s": 1.0, "sql": {"database": "x", "query": "x"}}),
    gpio: ("gpio", {"lines": ["SENSOR_A"]}),
    command: ("exec", {"command": ["x"]}),
    stream: ("socket", {"listen": "tcp://:1"}),
    datagram: ("socket", {"listen": "udp://:1"}),
    modbus: ("modbus", {"interval_s": 1.0, "registers": {"x": {"address": 0}}, "url": "tcp://x"}),
    cron: ("cron", {"every_s": 1.0}),
    http: ("http", {}),
    serial: ("serial", {}),
}


@pytest.fixture
async def scene(tmp_path: Path, until: Until, site: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    made = Scene(Agent(tmp_path), tmp_path, until, site, monkeypatch)
    yield made
    monkeypatch.undo()
    await made.agent.close()
    for close in made.closing:
        close()


def test_every_kind_is_here() -> None:
    assert {SETTINGS[one][0] for one in (*TELLING, *SILENT)} == set(plugin.kinds("trigger"))


@pytest.mark.parametrize("source", [*TELLING, *SILENT])
async def test_a_kill_when_the_source_is_told_loses_nothing(source: Any, scene: Scene) -> None:
    await source(scene)
    agent = scene.agent
    await scene.until(lambda: agent.version.events)
    (event,) = agent.version.events
    if source in TELLING:
        await scene.until(lambda: scene.told)
        assert scene.told[0] == [event.body]
    else:
        scene.tell()
        assert scene.told == [[event.body]], "the function has no event that is not on disk"
    after = Agent(scene.folder / "killed0")
    after.version.open.set()
    try:
        await after.open(*SETTINGS[source])
        await scene.until(lambda: after.version.events)
        assert after.version.events == [event]
        await scene.until(lambda: not after.host.behind)
    finally:
        await after.close()


@pytest.mark.parametrize("source", [mqtt, whole_file, tailed_file, poll])
async def test_nobody_is_told_while_the_disk_has_no_room(source: Any, scene: Scene) -> None:
    allowance = scene.agent.allowance
    allowance.limit_bytes = 0
    await source(scene)
    await scene.until(lambda: "[journal] events" in scene.agent.host.shown[1])
    assert scene.told == [] and scene.agent.version.events == []
    allowance.limit_bytes = 1 << 30
    allowance.room()
    await scene.until(lambda: scene.told and scene.agent.version.events)
    assert scene.told[0] == scene.agent.version.bodies


async def test_a_request_is_told_that_there_is_no_room(scene: Scene) -> None:
    scene.agent.allowance.limit_bytes = 0
    await scene.agent.start("http", {})
    scene.site.address = scene.agent.parts["http"].address
    reply = await scene.site.ask(target="/f", body=b"x")
    assert (reply.status, reply.header("retry-after")) == (503, "1")
    assert b"[journal] events" in reply.body


async def test_a_request_waits_for_the_disk_no_longer_than_it_may(scene: Scene) -> None:
    await scene.agent.start("http", {"wait_s": 0.1})
    scene.site.address = scene.agent.parts["http"].address
    scene.patch.setattr(scene.agent.journal, "commit", lambda *_: None)
    reply = await scene.site.ask(target="/f", body=b"x")
    assert (reply.status, reply.header("retry-after")) == (503, "1")
    assert reply.body == b"the event is not on disk after 0.1 s; try again"


async def test_a_durable_request_that_comes_again_is_received_again(scene: Scene) -> None:
    await scene.agent.start("http", {}, dedupe=Dedupe())
    scene.site.address = scene.agent.parts["http"].address
    scene.agent.version.open.set()
    for _ in range(3):
        reply = await scene.site.ask(target="/f", body=b"x", headers="Idempotency-Key: k\r\n")
        assert (reply.status, set(msgspec.json.decode(reply.body))) == (202, {"id"})
        await scene.until(lambda: not scene.agent.host.behind)
    assert scene.agent.version.bodies == [b"x"]


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("serial", {"write_answers": True}, r'write_answers: nobody waits .*\[outputs\.x\] kind = "serial"'),
        ("socket", {"listen": "udp://127.0.0.1:0", "write_answers": True}, "write_answers: nobody waits"),
        ("file", {"path": "x", "failed_folder": "failed"}, "failed_folder: a durable file is done .* dead letter"),
    ],
)
async def test_what_contradicts_durable_is_refused(scene: Scene, kind: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TriggerError, match=said):
        await scene.agent.start(kind, settings)


async def test_a_file_too_large_for_the_journal_stays_until_the_function_has_answered(scene: Scene) -> None:
    scene.before(PutAway, "put")
    inbox = scene.folder / "inbox"
    inbox.mkdir()
    (inbox / "x").write_bytes(b"xx")
    settings = {"path": str(inbox), "when_done": "delete", "size_limit_bytes": 1, "settle_s": 0.03, "rescan_s": 0.1}
    await scene.agent.start("file", settings)
    await scene.until(lambda: scene.agent.version.events)
    assert (inbox / "x").exists() and not scene.told
    scene.agent.version.open.set()
    await scene.until(lambda: not (inbox / "x").exists())


async def test_a_message_with_a_response_topic_waits_for_the_functions_own_answer(scene: Scene) -> None:
    await scene.agent.start("mqtt", {"topics": ["in"], "qos": 1})
    acked: list[None] = []
    answers: list[bytes] = []
    scene.agent.session.on_ack = lambda: acked.append(None)

    def publish(topic: str, body: bytes, *_: Any, **__: Any) -> asyncio.Future[None]:
        answers.append(body)
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent

    scene.agent.session.publish = publish  # type: ignore[attr-defined]
    scene.agent.session.handler(Message("in", b"x", qos=1, packet_id=7, response_topic="out"))
    await scene.until(lambda: scene.agent.version.events)
    assert not acked
    scene.agent.version.open.set()
    await scene.until(lambda: acked)
    assert answers == [b""]


@pytest.mark.parametrize("overlap", ["skip", "queue"])
async def test_a_durable_run_goes_on_until_it_is_answered(scene: Scene, overlap: str) -> None:
    await scene.agent.start("cron", {"every_s": 0.01, "overlap": overlap})
    trigger, host = scene.agent.trigger, scene.agent.host
    if overlap == "queue":
        await scene.until(lambda: len(scene.agent.on_disk(scene.folder / f"look-{os.urandom(4).hex()}")) > 5)
        assert len(scene.agent.version.events) == 1 and trigger.skipped == 0
        return
    await scene.until(lambda: trigger.skipped > 5)
    assert host.state == "degraded" and len(scene.agent.version.events) == 1
    scene.agent.version.open.set()
    await scene.until(lambda: host.state == "running" and len(scene.agent.version.events) > 2)


async def test_one_that_is_not_deduplicated_says_what_qos_2_gives(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await scene.agent.start("mqtt", {"topics": ["in"], "qos": 2})
    assert [record for record in caplog.messages if 'qos = 2 gives "at least once"' in record]


async def test_messages_without_an_id_are_told_of_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await scene.agent.start("mqtt", {"topics": ["in"], "qos": 2}, dedupe=Dedupe())
        for number in range(3):
            scene.agent.session.handler(Message("in", b"x", qos=2, packet_id=number + 1))
    assert scene.agent.host.counts["no_id"] == 3
    (said,) = (text for text in caplog.messages if "dedupe" in text or "qos" in text)
    assert "each of them is run" in said


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("poll", Event(id="in-3-a"), Event(id="in-4-a")),
        ("file", Event(id="1-2-3", path="a", headers={"change": "new"}), Event(id="1-2-3", path="b", headers={"change": "new"})),
    ],
)
def test_ids_that_are_the_same_when_the_event_comes_again(kind: str, one: Event, other: Event) -> None:
    source_id = plugin.load("trigger", kind).source_id
    assert source_id(one) == source_id(one) != source_id(other)


def test_a_line_of_a_growing_file_has_no_id() -> None:
    assert plugin.load("trigger", "file").source_id(Event(id="in-1", path="log", headers={"name": "log"})) == ""
