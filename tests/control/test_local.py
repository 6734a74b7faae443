"""The local server answers its peers, and no peer can hurt it."""

from __future__ import annotations

import asyncio
import os
import struct
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehost import __version__
from edgehost.control import local, protocol
from edgehost.control.local import LocalServer
from edgehost.control.protocol import (
    Answer,
    AskJournal,
    Chunk,
    Done,
    DropLetters,
    FindLetters,
    FunctionList,
    Invoke,
    LettersDone,
    ListFunctions,
    Ping,
    Pong,
    Refused,
    Reload,
    Reloaded,
    ReplayLetters,
    ShowLetter,
)
from edgehost.letter import Letters, Which
from tests.control.conftest import LETTER

BIG = 3 * 1024 * 1024 + 17


async def say(connect, *requests):
    """Open a connection, send the requests, return the peer."""
    peer = await connect()
    for request in requests:
        peer.send(request)
    return peer


async def still_answers(connect) -> bool:
    return isinstance(await (await say(connect, Ping())).reply(), Pong)


async def test_ping_says_which_agent_this_is(connect):
    before = time.time()
    pong = await (await say(connect, Ping())).reply()
    assert (pong.version, pong.pid, pong.protocol) == (__version__, os.getpid(), protocol.PROTOCOL)
    assert before - 60 < pong.started <= time.time()


async def test_functions_lists_what_the_host_says(connect, host):
    assert await (await say(connect, ListFunctions())).reply() == FunctionList(host.functions())


async def test_reload_says_what_it_did_or_why_not(connect, host):
    peer = await say(connect, Reload())
    assert await peer.reply() == Reloaded(added=["new"], restart=["[http]"])
    host.wrong_config = "edgehost.toml [http].listen: 3 is not allowed"
    peer.send(Reload())
    assert await peer.reply() == Refused("config", host.wrong_config)


async def test_journal_tells_what_the_host_says(connect, host):
    assert await (await say(connect, AskJournal())).reply() == await host.journal_status()


async def test_dead_letters_are_found_shown_and_replayed(connect, host):
    which = Which([1, 2], "f", "t", "o", "event", "raised", "e1", "text", 5.0, 6.5)
    peer = await say(
        connect, FindLetters(which, 9), ShowLetter(7), ReplayLetters(which), ShowLetter(8), DropLetters(Which(every=True))
    )
    assert await peer.reply() == Letters([LETTER], 7, {"echo": 7})
    assert await peer.reply() == await host.whole_letter(7)
    assert await peer.reply() == LettersDone(3)
    assert await peer.reply() == Refused("control", "there is no dead letter 8")
    assert await peer.reply() == Refused("state", "the journal is closed: the agent ends")
    assert host.asked == [("find", which, 9), ("replay", which, 0), ("drop", Which(every=True), 0)]


@pytest.mark.parametrize("request_", [FindLetters(limit=10_001), FindLetters(limit=-1), ReplayLetters(Which(list(range(501))))])
async def test_more_dead_letters_than_a_frame_holds_are_refused(connect, request_):
    reply = await (await say(connect, request_)).reply()
    assert isinstance(reply, Refused) and reply.code == "protocol"


async def test_invoke_hands_over_every_field_and_answers_in_full(connect, host):
    request = Invoke("echo", b"\x00body", "application/x", {"A": "b"}, "PUT", "/deep/path")
    peer = await say(connect, request)
    assert await peer.reply() == Answer(200, "application/x", {"A": "b"})
    assert await peer.reply() == Chunk(b"\x00body")
    done = await peer.reply()
    assert isinstance(done, Done) and done.error == "" and done.duration_ms > 0
    (event,) = host.seen
    assert (event.method, event.path, event.trigger.kind) == ("PUT", "/deep/path", "control")
    assert event.id and event.timestamp.tzinfo is not None


async def test_a_body_larger_than_one_chunk_comes_back_whole(connect):
    body = os.urandom(BIG)
    peer = await say(connect, Invoke("echo", body))
    assert isinstance(await peer.reply(), Answer)
    received = b""
    while isinstance(reply := await peer.reply(), Chunk):
        assert len(reply.data) <= protocol.PIECE_BYTES
        received += reply.data
    assert received == body and isinstance(reply, Done)


async def test_a_streamed_answer_comes_in_chunks_and_its_iterator_is_closed(connect, host):
    peer = await say(connect, Invoke("stream"))
    replies = [await peer.reply() for _ in range(5)]
    assert replies[:4] == [Answer(206), Chunk(b"head "), Chunk(b"one "), Chunk(b"two")]
    assert replies[4].error == "" and host.closed == ["chunks"]


async def test_a_stream_that_breaks_off_says_why(connect, host):
    peer = await say(connect, Invoke("torn"))
    replies = [await peer.reply() for _ in range(4)]
    assert replies[3].error == "worker died" and host.closed == ["chunks"]


async def test_a_failed_event_is_an_answer_with_its_code(connect):
    peer = await say(connect, Invoke("fails"))
    assert await peer.reply() == Answer(500, "text/plain", {}, "raised")
    assert await peer.reply() == Chunk(b"ValueError: no")


async def test_an_unknown_function_is_refused_and_the_connection_stays_usable(connect):
    peer = await say(connect, Invoke("nope"), Ping())
    assert await peer.reply() == Refused("control", "no function 'nope' here; there are echo, slow")
    assert isinstance(await peer.reply(), Pong)


async def test_requests_sent_at_once_are_answered_in_order(connect):
    peer = await say(connect, Ping(), Invoke("echo", b"1"), ListFunctions())
    kinds = [type(await peer.reply()) for _ in range(5)]
    assert kinds == [Pong, Answer, Chunk, Done, FunctionList]


async def test_a_peer_that_goes_away_cancels_its_call(connect, host):
    peer = await say(connect, Invoke("slow"))
    await asyncio.wait_for(host.entered.wait(), 20)
    peer.writer.close()
    await asyncio.wait_for(host.cancelled.wait(), 20)
    assert await still_answers(connect)


async def test_a_slow_call_holds_up_nobody_else(connect, host):
    await say(connect, Invoke("slow"))
    await asyncio.wait_for(host.entered.wait(), 20)
    assert await still_answers(connect)


async def test_a_mistake_in_the_agent_costs_one_connection_and_is_logged(connect, caplog):
    peer = await say(connect, Invoke("bug"))
    assert await peer.reply() is None
    assert "a mistake in the agent" in caplog.text
    assert await still_answers(connect)


def framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


GARBAGE = {
    "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "empty frame": struct.pack(">I", 0),
    "huge length": struct.pack(">I", 0xFFFFFFFF) + b"x",
    "one over the limit": struct.pack(">I", protocol.LIMIT_BYTES + 1),
    "not msgpack": framed(b"\xc1\xc1\xc1"),
    "no map": framed(b"\x01"),
    "bad UTF-8": framed(b"\x81\xa2op\xa4\xff\xff\xff\xff"),
    "unknown op": framed(msgspec.msgpack.encode({"op": "format"})),
    "wrong type": framed(msgspec.msgpack.encode({"op": "invoke", "function": 3})),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_is_refused_with_a_reason_and_closed(connect, data):
    peer = await connect()
    peer.writer.write(data)
    reply = await peer.reply()
    assert isinstance(reply, Refused) and reply.code == "protocol" and reply.message
    assert await peer.reply() is None
    assert await still_answers(connect)


async def test_a_newer_peer_is_told_that_the_versions_differ(connect):
    peer = await connect()
    peer.writer.write(framed(msgspec.msgpack.encode({"op": "teleport", "protocol": 9})))
    reply = await peer.reply()
    assert f"'teleport' is of protocol 9, edgehost {__version__} speaks protocol {protocol.PROTOCOL}" in reply.message


@pytest.mark.parametrize("data", [b"", b"\x00", protocol.encode(Ping())[:-1], struct.pack(">I", 1 << 20) + b"x" * 100])
async def test_a_peer_that_hangs_up_halfway_is_forgotten(connect, server, data):
    peer = await connect()
    peer.writer.write(data)
    peer.writer.close()
    await until(lambda: not server._peers)
    assert await still_answers(connect)


async def test_a_peer_that_stalls_inside_a_frame_is_closed(connect, monkeypatch):
    monkeypatch.setattr(local, "FRAME_S", 0.05)
    peer = await connect()
    peer.writer.write(struct.pack(">I", 100) + b"x")
    assert await peer.reply() is None


async def test_an_idle_peer_is_closed(connect, monkeypatch):
    monkeypatch.setattr(local, "IDLE_S", 0.05)
    assert await (await connect()).reply() is None


async def test_a_peer_that_does_not_read_its_answer_is_closed(connect, server, monkeypatch):
    monkeypatch.setattr(local, "FRAME_S", 0.5)
    await say(connect, Invoke("echo", bytes(BIG)))
    await until(lambda: bool(server._peers))
    await until(lambda: not server._peers)
    assert await still_answers(connect)


async def test_one_connection_too_many_is_refused(connect, monkeypatch):
    monkeypatch.setattr(local, "MOST_PEERS", 3)
    for _ in range(3):
        assert isinstance(await (await say(connect, Ping())).reply(), Pong)
    reply = await (await connect()).reply()
    assert reply == Refused("protocol", "3 connections are open already; close one")


async def test_large_frames_are_read_a_few_at_a_time(connect, host, server):
    """Peers that begin large frames and stall hold the slots; a further one waits, small requests pass, and it goes on after."""
    stalled = [await connect() for _ in range(local.MOST_LARGE)]
    for peer in stalled:
        peer.writer.write(struct.pack(">I", BIG))
    await until(server._large.locked)
    late = await say(connect, Invoke("echo", bytes(BIG)))
    assert await still_answers(connect)
    assert host.seen == []
    stalled[0].writer.close()
    assert isinstance(await late.reply(), Answer)


class Nobody:
    async def invoke(self, name, event):
        raise AssertionError("never asked for")

    def functions(self):
        return []

    def troubles(self):
        return []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=200), st.binary(min_size=1, max_size=64).map(framed)))
def test_no_bytes_at_all_can_end_the_server(tmp_path_factory, data):
    async def scenario():
        server = LocalServer(tmp_path_factory.mktemp("r") / "s", Nobody())
        await server.start()
        try:
            reader, writer = await asyncio.open_unix_connection(server.address)
            writer.write(data)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 20)
            writer.close()
            reader, writer = await asyncio.open_unix_connection(server.address)
            writer.write(protocol.encode(Ping()))
            header = await asyncio.wait_for(reader.readexactly(4), 20)
            assert isinstance(protocol.decode_reply(await reader.readexactly(protocol.payload_size(header))), Pong)
            writer.close()
        finally:
            await server.stop()

    asyncio.run(scenario())


async def test_stop_ends_calls_in_progress_and_removes_the_socket(connect, server, host):
    peer = await say(connect, Invoke("slow"))
    await asyncio.wait_for(host.entered.wait(), 20)
    await server.stop()
    assert await peer.reply() is None
    assert host.cancelled.is_set() and not server.address.exists()
    await server.stop()


async def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.01)
