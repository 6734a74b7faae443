"""What leaves from the disk to a real broker: refused for good, exactly once and fast, to another broker after an upgrade."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehost.event import Event, Response
from edgehost.manifest.model import Store
from edgehost.outputs.mqtt import MqttOutput, MqttOutputSettings
from edgehost.parcel import Parcel
from tests.delivery.receiver import Agent, at_rest

pytestmark = [pytest.mark.needs("mosquitto"), pytest.mark.usefixtures("whole_again")]


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    one = Agent(tmp_path / "state")
    yield one
    await one.close()


async def output(host: Any, session: Any, **table: Any) -> MqttOutput:
    made = MqttOutput(msgspec.convert({"topic": "", **table}, MqttOutputSettings), host(session))
    await made.start()
    return made


async def letters(agent: Agent) -> list[tuple[str, str, bytes]]:
    select = "SELECT output, error, body FROM dead ORDER BY number"
    found: list[tuple[str, str, bytes]] = await agent.journal.ask(lambda connection: connection.execute(select).fetchall())
    return found


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("direct", [False, True])
async def test_what_the_broker_refuses_for_good_becomes_a_dead_letter(
    mosquitto, session, host, until, peer, tmp_path, agent, qos, direct
):
    (tmp_path / "acl").write_text("topic read forbidden\ntopic allowed\n")
    broker = mosquitto(f"allow_anonymous true\nacl_file {tmp_path / 'acl'}")
    other = peer(broker.url)
    other.subscribe("allowed", 2)
    lane = await agent.lane(await output(host, await session(broker.url), qos=qos))
    if direct:
        wait = lane.send(Event(path="forbidden"), Response(body=b"no"))
        with pytest.raises(Exception, match="refused a message: reason 0x87: we are not authorised"):
            await wait
    else:
        await agent.outbox.keep(lane, Parcel("forbidden", b"no", id="e1/out"))
        await until(lambda: lane.counts["refused"] == 1)
    await agent.outbox.keep(lane, Parcel("allowed", b"yes"))
    message = await other.anext()
    assert message.payload == b"yes"
    await until(lambda: lane.count == 0)
    await agent.written()
    found = await letters(agent)
    if direct:
        assert found == []  # its event is told, and keeps a letter of its own
    else:
        [(name, error, body)] = found
        assert (name, msgspec.msgpack.decode(body, type=Parcel).body) == ("out", b"no")
        assert "we are not authorised" in error
    at_rest(agent)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_more_than_a_thousand_a_second_leave_exactly_once(mosquitto, session, host, until, peer, agent, version):
    broker = mosquitto("allow_anonymous true\nmax_queued_messages 0")
    other = peer(broker.url)
    other.subscribe("t", 2)
    one = await output(host, await session(broker.url, version=version, session_expiry_s=300), qos=2)
    lane = await agent.lane(one)
    began = time.monotonic()
    await asyncio.gather(*(agent.outbox.keep(lane, Parcel("t", b"%d" % number)) for number in range(3000)))
    await until(lambda: lane.count == 0)
    took_s = time.monotonic() - began
    await agent.written()
    at_rest(agent)
    got = [int((await other.anext()).payload) for _ in range(3000)]
    assert got == [*range(3000)] and other.received.empty()
    print(f"{3000 / took_s:.0f} messages a second")
    assert took_s < 30  # 1000 a second on an idle machine; this one may be busy


async def test_what_waits_for_a_broker_that_is_away_goes_to_the_next_versions(mosquitto, session, host, until, peer, agent):
    gone, there = mosquitto(), mosquitto()
    other = peer(there.url)
    other.subscribe("t", 2)
    old_session, new_session = await session(gone.url), await session(there.url)
    old, new = await output(host, old_session, qos=1), await output(host, new_session, qos=1)
    lane = await agent.lane(old)
    gone.kill()
    waits = [lane.send(Event(path="t"), Response(body=b"%d" % number)) for number in range(30)]
    await until(lambda: old_session.state != "connected")
    await asyncio.wait_for(asyncio.gather(*(wait for wait in waits if wait is not None)), 10)
    lane.attach(new, Store())
    lane.detach(old)
    got = [int((await other.anext()).payload) for _ in range(30)]
    assert got == [*range(30)]
    await until(lambda: lane.count == 0)
    await agent.written()
    at_rest(agent)


@pytest.mark.parametrize("qos", [1, 2])
async def test_an_orderly_stop_with_the_broker_away_loses_nothing(mosquitto, session, host, until, peer, tmp_path, qos):
    broker = mosquitto()
    one = Agent(tmp_path / "state")
    first = await session(broker.url)
    out = await output(host, first, qos=qos)
    lane = await one.lane(out)
    broker.kill()
    sent = [lane.send(Event(path="t"), Response(body=b"%d" % number)) for number in range(40)]
    lane.detach(out)
    one.outbox.close()
    await out.stop()
    await first.close(0.2)
    await one.journal.close()
    results = await asyncio.gather(*(wait for wait in sent if wait is not None))
    assert results == [None] * 40
    broker.start()
    other = peer(broker.url)
    other.subscribe("t", 2)
    two = Agent(tmp_path / "state")
    lane = await two.lane(await output(host, await session(broker.url), qos=qos))
    got = [int((await other.anext()).payload) for _ in range(40)]
    assert got == [*range(40)]
    await until(lambda: lane.count == 0)
    await two.written()
    at_rest(two)
    await two.close()


async def test_what_waits_expires_while_the_broker_is_away(
    mosquitto, session, host, until, agent, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edgehost.delivery.backlog._EXPIRE_S", 0.05)
    broker = mosquitto()
    one = await session(broker.url)
    out = await output(host, one, qos=2)
    lane = await agent.lane(out, rules=Store(ttl_s=0.4))
    broker.kill()
    for number in range(700):
        lane.send(Event(path="t"), Response(body=b"%d" % number))
    await until(lambda: lane.counts["expired"] >= 680)
    # At most what had left before the broker went may still be owed to it.
    assert lane.count <= 20 and len(agent.outbox.numbers) <= 20
    for _ in range(500):  # departures are written a moment later, many together
        if await agent.rows() <= 20:
            break
        await asyncio.sleep(0.02)
    assert await agent.rows() <= 20


