"""Clients that misbehave, connections and the address: over real sockets, answered by a fake host."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from edgehost.config import Config, Http
from edgehost.errors import TriggerError
from edgehost.event import Event, Response

DEADLINE_S = 20


async def test_pipelined_requests_are_answered_in_order(site: Any) -> None:
    async def backwards(event: Event) -> Response:
        await asyncio.sleep(0.05 if event.body == b"0" else 0)
        return Response(200, "text/plain", {}, event.body)

    await site.serve(answer=backwards)
    client = await site.connect()
    client.send(b"".join(site.request(body=b"%d" % number) for number in range(5)))
    assert [(await client.reply()).body for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_http_1_0_is_answered_and_closed(site: Any) -> None:
    await site.serve()
    client = await site.connect()
    client.send(site.request(body=b"old", version="1.0"))
    assert (await client.rest()).endswith(b"\r\n\r\nold")


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
        b"NONSENSE\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnothex\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_the_next_client_served(site: Any, nonsense: bytes) -> None:
    host = await site.serve()
    client = await site.connect()
    client.send(nonsense)
    client.writer.write_eof()
    answer = await client.rest()
    assert not answer or answer.split()[1][:1] == b"4", answer
    assert (await site.ask()).status == 200
    assert len(host.events) == 1


async def test_a_query_of_too_many_fields_is_refused(site: Any) -> None:
    host = await site.serve()
    assert (await site.ask(target="/echo?" + "&".join(f"a{number}=1" for number in range(1001)))).status == 400
    assert host.events == []


async def test_a_head_without_end_is_cut_off(site: Any) -> None:
    await site.serve()
    client = await site.connect()
    client.send(b"GET /echo HTTP/1.1\r\n")
    with pytest.raises((ConnectionError, AssertionError)):
        for number in range(100_000):
            client.send(b"X-Filler-%d: %s\r\n" % (number, b"x" * 1000))
            await asyncio.wait_for(client.writer.drain(), DEADLINE_S)
            assert not client.reader.at_eof()
    assert (await site.ask()).status == 200


async def slow_clients_see(site: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("edgehost.http.server.STALL_S", 0.0)
    server = site.triggers[0]._listener._server  # type: ignore[union-attr]
    server._head_s = 0.0  # type: ignore[union-attr]
    return server


async def test_a_client_that_never_ends_its_head_is_put_out(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.serve()
    await slow_clients_see(site, monkeypatch)
    client = await site.connect()
    client.send(b"GET /echo HTTP/1.1\r\nHost")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await client.head()


async def test_a_client_that_never_reads_its_answer_is_put_out(site: Any, monkeypatch: pytest.MonkeyPatch, until: Any) -> None:
    await site.serve(answer=lambda event: Response(200, "text/plain", {}, bytes(50_000_000)))
    await slow_clients_see(site, monkeypatch)
    client = await site.connect()
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    client.send(site.request())
    server = site.triggers[0]._listener._server  # type: ignore[union-attr]
    await until(lambda: server.server_state.total_requests)  # type: ignore[union-attr]
    await until(lambda: not server.server_state.connections)  # type: ignore[union-attr]


async def test_one_too_many_connections_get_503(site: Any, agent: Any, until: Any) -> None:
    agent.config = Config(http=Http(listen="127.0.0.1:0", max_connections=3))
    await site.serve()
    quiet = [await site.connect() for _ in range(3)]
    await until(lambda: len(site.triggers[0]._listener._server.server_state.connections) == 3)  # type: ignore[union-attr]
    assert (await site.ask()).status == 503
    for client in quiet:
        client.close()
    await until(lambda: len(site.triggers[0]._listener._server.server_state.connections) < 2)  # type: ignore[union-attr]
    assert (await site.ask()).status == 200


async def test_a_taken_port_is_an_error_that_says_what_to_do(site: Any, agent: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        agent.config = Config(http=Http(listen=f"127.0.0.1:{port}"))
        with pytest.raises(TriggerError, match=rf"127\.0\.0\.1:{port} is in use; .*choose another"):
            await site.serve()
    await site.serve()
    assert (await site.ask()).status == 200, "the next start tries again"


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        ("8080", "is not an address"),
        (":8080", "is not an address"),
        ("127.0.0.1:eighty", "is not an address"),
        ("127.0.0.1:70000", "is not an address"),
        ("127.0.0.1:", "is not an address"),
        ("192.0.2.1:8080", "not an address of this machine"),
        ("unix:relative.sock", "absolute path"),
        ("unix:/no/such/folder/http.sock", "No such file"),
    ],
)
async def test_an_address_that_cannot_be_listened_at_says_why(site: Any, agent: Any, listen: str, says: str) -> None:
    agent.config = Config(http=Http(listen=listen))
    with pytest.raises(TriggerError, match=says):
        await site.serve()


async def test_a_unix_socket_serves_and_a_stale_one_is_taken_over(site: Any, agent: Any, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    agent.config = Config(http=Http(listen=f"unix:{path}"))
    host = await site.serve()
    assert (await site.ask(body=b"local")).body == b"local"
    assert host.reports[0][1].startswith(f"unix:{path} at")
    assert path.stat().st_mode & 0o777 == 0o660


async def test_a_unix_socket_somebody_answers_at_is_in_use(site: Any, agent: Any, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    agent.config = Config(http=Http(listen=f"unix:{path}"))
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(TriggerError, match="is in use"):
            await site.serve()


async def test_the_real_address_is_told(site: Any) -> None:
    host = await site.serve()
    state, message = host.reports[0]
    assert state == "running"
    assert f"http://{site.address}" in message
    assert "/echo/*" in message
    assert not site.address.endswith(":0")


async def test_an_answer_is_not_held_back_by_nagles_algorithm(site: Any) -> None:
    await site.serve()
    client = await site.connect()
    client.send(site.request())
    await client.reply()
    [connection] = site.triggers[0]._listener._server.server_state.connections
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_signals_stay_the_agents(site: Any) -> None:

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    await site.serve()
    await site.ask()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_without_httptools_the_same_promises_hold(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.httptools_impl", None)
    host = await site.serve({"body_limit_bytes": 1000})
    client = await site.connect()
    client.send(site.request(target="/echo/a%20b?x=1", body=b"one") + site.request(body=b"two"))
    assert [(await client.reply()).body for _ in range(2)] == [b"one", b"two"]
    assert (host.events[0].path, host.events[0].fields) == ("/a b", {"x": "1"})
    assert (await site.ask(body=bytes(1001))).status == 413
    assert type(next(iter(site.triggers[0]._listener._server.server_state.connections), None)).__name__ == "H11Protocol"
