"""Brokers that refuse, vanish, hang up or say nothing: each is told in words that say what to do."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess

import pytest

from edgehost.config import Broker
from edgehost.errors import TriggerError
from edgehost.mqtt import Session

pytestmark = [pytest.mark.needs("mosquitto"), pytest.mark.usefixtures("whole_again")]

async def test_wrong_passwords_are_told_in_plain_words(mosquitto, session, until, tmp_path):
    (tmp_path / "passwd").write_text("")
    (tmp_path / "passwd").chmod(0o644)
    broker = mosquitto(f"allow_anonymous false\npassword_file {tmp_path / 'passwd'}")
    for version in ("5", "3.1.1"):
        one = await session(broker.url, wait=False, version=version, username="dev1")
        await until(lambda one=one: one.state == "down" and one.reason)
        assert "authori" in one.reason and "password_file" in one.reason


async def test_a_password_comes_from_its_file_or_the_environment(mosquitto, session, tmp_path, component, monkeypatch):
    passwords = tmp_path / "passwd"
    passwords.write_text("")
    command = [component("mosquitto_passwd"), "-b", str(passwords), "dev1", "s3cret"]
    await asyncio.to_thread(subprocess.run, command, check=True)
    passwords.chmod(0o644)
    broker = mosquitto(f"allow_anonymous false\npassword_file {passwords}")
    (tmp_path / "secret").write_text("s3cret\n")
    await session(broker.url, username="dev1", password_file=str(tmp_path / "secret"))
    monkeypatch.setenv("BROKER_PASSWORD", "s3cret")
    await session(broker.url, username="dev1", password_env="BROKER_PASSWORD")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"username": "x", "password_file": "/nowhere/secret"}, "password_file '/nowhere/secret' cannot be read"),
        ({"username": "x", "password_env": "NOT_SET"}, "password_env 'NOT_SET' is not set"),
    ],
)
async def test_a_password_that_is_not_there_is_told(session, until, settings, said):
    one = await session("mqtt://127.0.0.1:1", wait=False, **settings)
    await until(lambda: one.reason)
    assert said in one.reason


async def test_a_broker_that_is_not_there_is_told_and_asked_again(mosquitto, session, until, free_port):
    port = free_port()
    one = await session(f"mqtt://127.0.0.1:{port}", wait=False)
    told: list[tuple[str, str]] = []
    one.on_state.append(lambda state, reason: told.append((state, reason)))
    await until(lambda: [state for state, _ in told].count("down") > 1)
    assert "nothing listens there" in told[-1][1]


async def test_a_server_that_says_nothing_is_told(session, until):
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = await session(f"mqtt://127.0.0.1:{server.getsockname()[1]}", wait=False, connect_timeout_s=0.5)
        await until(lambda: one.reason)
        assert "does not answer; is it an MQTT broker?" in one.reason


async def test_a_server_that_is_no_broker_is_told(session, until):
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\xff\xff\xff\xff\xff HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        one = await session(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", wait=False)
        await until(lambda: one.reason)
        assert "not MQTT" in one.reason


async def test_a_broker_that_hangs_up_at_once_may_not_speak_our_version(session, until):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        one = await session(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", wait=False)
        await until(lambda: one.reason)
        assert "closed the connection; does it speak MQTT 5? See version" in one.reason


async def test_two_clients_with_one_id_are_told_what_to_do(mosquitto, session, until):
    broker = mosquitto()
    one = await session(broker.url, client_id="same")
    said = []
    one.on_state.append(lambda _state, reason: said.append(reason))
    await session(broker.url, client_id="same")
    await until(lambda: any(said))
    assert "another client may have come with the same client id, same" in next(reason for reason in said if reason)


async def test_what_the_broker_says_when_it_throws_us_out_is_told(session, until):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x20\x03\x00\x00\x00" + b"\xe0\x02\x8e\x00")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        one = await session(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", wait=False)
        await until(lambda: one.reason)
        assert "session taken over (0x8e)" in one.reason and "give each agent its own client_id" in one.reason


async def test_a_refused_subscription_is_told_to_who_asked(mosquitto, session, inbox, until, tmp_path):
    # mosquitto refuses a SUBSCRIBE by its access list only through a plugin; QoS it does not offer shows in the CONNACK.
    broker = mosquitto("allow_anonymous true\nmax_qos 1")
    one = await session(broker.url)
    with pytest.raises(TriggerError, match="QoS 1 at most"):
        await one.publish("t", b"", 2)


class Refusing:
    """A broker that says yes to CONNECT and no to every SUBSCRIBE: mosquitto only does so with a plugin."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                first, size = await reader.readexactly(2)
                body = await reader.readexactly(size)
                if first == 0x10:
                    writer.write(b"\x20\x03\x00\x00\x00")
                elif first == 0x82:
                    writer.write(b"\x90\x04" + body[:2] + b"\x00\x87")
        except asyncio.IncompleteReadError:
            writer.close()


async def test_a_broker_that_refuses_a_filter_is_told_now_or_later(session, inbox, until):
    server = await asyncio.start_server(Refusing().serve, "127.0.0.1", 0)
    async with server:
        one = await session(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", wait=False)
        told: list[str] = []
        await one.subscribe("a", 0, inbox(one), told.append)  # not connected yet
        await until(lambda: told)
        assert "refused the subscription to 'a'" in told[0] and "not authorised" in told[0]
        with pytest.raises(TriggerError, match="refused the subscription to 'b'"):
            await one.subscribe("b", 0, inbox(one))
        await one.close(0)


async def test_what_is_no_filter_is_refused_with_a_reason(mosquitto, session, inbox):
    one = await session(mosquitto().url)
    with pytest.raises(TriggerError, match="'a/#/b' is not a topic filter: '#' stands alone"):
        await one.subscribe("a/#/b", 0, inbox(one))


@pytest.mark.parametrize("url", ["127.0.0.1:1883", "http://host", "mqtt://", "mqtt://host:99999", "mqtt://u:p@host", "mqtt://h/x"])
async def test_what_is_no_url_is_refused_with_a_form(url):
    with pytest.raises(TriggerError, match="is not the URL of a broker"):
        Session("default", Broker(url=url), logging.getLogger())


async def test_keep_alive_finds_a_broker_that_fell_silent(until, session):
    """A broker whose machine is gone sends no FIN: only the unanswered PING tells."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x20\x03\x00\x00\x00")
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        one = await session(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", keepalive_s=1)
        await until(lambda: one.state == "down" and one.reason)
        assert "keep alive" in one.reason.lower() or "keepalive" in one.reason.lower()
        await one.close(0)
