"""The command line's end: what it gets from a real server, and what it says when there is none or it misbehaves."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

import pytest

from edgehost import __version__
from edgehost.control import protocol
from edgehost.control.client import AnswerTimeoutError, Client, NoAgentError, RefusedError
from edgehost.control.local import LocalServer
from edgehost.control.protocol import Answer, Chunk, Done, Invoke
from edgehost.errors import ControlError
from edgehost.letter import Letters, Which
from tests.control.conftest import LETTER


@pytest.fixture
def address(host_factory, tmp_path):
    """A server that runs in a loop of its own thread, as an agent is another process for the blocking client."""
    loop = asyncio.new_event_loop()
    server = LocalServer(tmp_path / "s", host_factory())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(20)
    yield server.address
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()


@pytest.fixture
def stranger(tmp_path):
    """A socket whose one connection is answered with given bytes and closed."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "stranger"))
    listener.listen()
    threads = []

    def says(data: bytes):
        def answer():
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(data)

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return tmp_path / "stranger"

    yield says
    for thread in threads:
        thread.join(20)
    listener.close()


def test_it_asks_for_the_journal_and_its_dead_letters(address):
    with Client.connect(address, 20) as client:
        assert client.journal().path == "/state/journal.db"
        assert client.letters(Which(function="echo"), 5) == Letters([LETTER], 7, {"echo": 7})
        assert client.letter(7).event.body == b"\xff"
        assert client.replay(Which([7])) == 3
        with pytest.raises(RefusedError, match="the journal is closed") as told:
            client.drop(Which(every=True))
        assert told.value.code == "state"


def test_it_asks_several_questions_over_one_connection(address):
    with Client.connect(address) as client:
        assert (client.ping().pid, client.ping().version) == (os.getpid(), __version__)
        assert [function.name for function in client.functions()] == ["echo"]
        *parts, done = client.invoke(Invoke("stream"))
        assert parts == [Answer(206), Chunk(b"head "), Chunk(b"one "), Chunk(b"two")]
        assert isinstance(done, Done)


def test_a_refusal_keeps_the_agents_code(address):
    with Client.connect(address) as client, pytest.raises(RefusedError, match="no function 'nope' here") as caught:
        list(client.invoke(Invoke("nope")))
    assert caught.value.code == "control"


def test_no_answer_in_time_is_its_own_error(address):
    with Client.connect(address, timeout_s=0.1) as client, pytest.raises(AnswerTimeoutError, match=r"no answer within 0\.1 s"):
        list(client.invoke(Invoke("slow")))


def test_without_an_agent_it_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEHOST_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(NoAgentError) as caught:
        Client.connect(tmp_path / "s")
    assert str(caught.value) == (
        f"no agent answers at {tmp_path}/s (no such file or directory); start one with `edgehost run FOLDER`, or give --socket"
    )


def test_an_agent_that_closes_is_no_agent(stranger):
    with Client.connect(stranger(b"")) as client, pytest.raises(NoAgentError, match=r"closed the connection .* see its log"):
        client.ping()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "a frame of 1213486160 bytes is not one of edgehost"),
        (protocol.encode(Done(1.0)), "answered with Done"),
    ],
)
def test_a_stranger_is_not_believed(stranger, data, message):
    with Client.connect(stranger(data)) as client, pytest.raises(ControlError, match=message):
        client.ping()


def test_a_body_over_the_limit_is_refused_before_it_is_sent(address, monkeypatch):
    monkeypatch.setattr(protocol, "LIMIT_BYTES", 1000)
    with Client.connect(address) as client, pytest.raises(ControlError, match="more than the 1000 the local socket carries"):
        list(client.invoke(Invoke("echo", bytes(2000))))
