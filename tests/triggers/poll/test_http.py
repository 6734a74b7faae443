"""HTTP as a source: what is asked, what each answer comes to, and servers that do what servers do."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgehost.triggers.poll.http_source import patience_s, validators

if TYPE_CHECKING:
    from tests.triggers.poll.conftest import Polled, Server

Poll = Callable[..., Awaitable["Polled"]]
STATIONS = {"data": {"stations": [{"id": 1, "t": 20.5}, {"id": 2, "t": 19.0}]}}
DEADLINE_S = 20
DATE = "Thu, 01 Jan 1970 00:00:10 GMT"


async def test_records_become_events_once(poll: Poll, server: Server) -> None:
    server.say(STATIONS)
    polled = await poll({"http": {"url": f"{server.url}/s?key=secret", "records": "data.stations"}, "key": "id"})
    await polled.reads(3)
    assert polled.bodies == STATIONS["data"]["stations"]
    event = polled.host.events[0]
    assert event.content_type == "application/json" and event.url == f"{server.url}/s"
    assert event.headers == {"X-Edgehost-Change": "new"} and event.id.startswith("records-0-")
    assert event.timestamp.tzinfo is not None
    path, headers = server.asked[0]
    assert path == "/s?key=secret" and headers["accept"] == "application/json"
    assert polled.state == ("running", "") and polled.host.counts["records"] >= 6


async def test_a_changed_record_is_an_event_of_its_own(poll: Poll, server: Server) -> None:
    server.say([{"id": 1, "t": 1}], [{"id": 1, "t": 2}], [{"id": 1, "t": 1}])
    polled = await poll({"http": {"url": server.url}, "key": "id"})
    await polled.reads(4)
    assert [(event.headers["X-Edgehost-Change"], json.loads(event.body)["t"]) for event in polled.host.events] == [
        ("new", 1),
        ("changed", 2),
        ("changed", 1),
    ]
    assert len({event.id for event in polled.host.events}) == 3


@pytest.mark.parametrize(
    ("form", "body", "expected"),
    [
        ("json", b'{"t": 1}', [b'{"t":1}']),
        ("jsonl", b'{"t": 1}\n\n{"t": 2}\n', [b'{"t":1}', b'{"t":2}']),
        ("csv", b'\xef\xbb\xbfid,name\r\n1,"a,b"\r\n2,\r\n', [b'{"id":"1","name":"a,b"}', b'{"id":"2","name":""}']),
        ("text", "21.5 °C".encode(), ["21.5 °C".encode()]),
    ],
)
async def test_every_format_has_its_records(poll: Poll, server: Server, form: str, body: bytes, expected: list[bytes]) -> None:
    server.give({"body": body})
    polled = await poll({"http": {"url": server.url, "format": form}})
    await polled.reads()
    assert [event.body for event in polled.host.events] == expected
    assert polled.host.events[0].content_type == ("text/plain" if form == "text" else "application/json")


async def test_a_cursor_goes_into_the_url(poll: Poll, server: Server) -> None:
    server.say([{"at": "2026-01-01T00:00:00+00:00"}], [])
    polled = await poll({"http": {"url": server.url + "/?since={cursor}"}, "cursor": "at", "start": "1970"})
    await polled.reads(2)
    assert [path for path, _ in server.asked[:2]] == ["/?since=1970", "/?since=2026-01-01T00%3A00%3A00%2B00%3A00"]


async def test_a_server_that_knows_etags_is_asked_for_changes_only(poll: Poll, server: Server) -> None:
    told = {"ETag": '"abc"', "Last-Modified": DATE}
    server.give({"body": b'[{"id": 1}]', "headers": told}, {"status": 304}, {"status": 304}, {"body": b'[{"id": 2}]'})
    polled = await poll({"http": {"url": server.url}})
    await polled.reads(5)
    assert polled.bodies == [{"id": 1}, {"id": 2}] and polled.host.counts["unchanged"] == 2
    asked = [(headers.get("if-none-match"), headers.get("if-modified-since")) for _, headers in server.asked]
    assert asked[:5] == [(None, None), *[('"abc"', DATE)] * 3, (None, None)]


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({}, {}),
        ({"etag": '"a"', "last-modified": DATE}, {"If-None-Match": '"a"'}),
        ({"last-modified": DATE, "date": DATE}, {}),
        ({"last-modified": DATE, "date": "Thu, 01 Jan 1970 00:00:11 GMT"}, {"If-Modified-Since": DATE}),
        ({"last-modified": "yesterday", "date": DATE}, {}),
    ],
)
def test_a_page_changed_within_its_second_is_asked_for_again(headers: dict[str, str], asked: dict[str, str]) -> None:
    assert validators(headers) == asked


async def test_gzip_is_unpacked(poll: Poll, server: Server) -> None:
    server.give({"body": gzip.compress(b'[{"id": 1}]'), "headers": {"Content-Encoding": "gzip"}})
    polled = await poll({"http": {"url": server.url}})
    await polled.reads()
    assert polled.bodies == [{"id": 1}] and server.asked[0][1]["accept-encoding"] == "gzip"


BOMB = gzip.compress(bytes(10_000_000))


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ({"status": 500}, "answered 500"),
        ({"status": 401}, "answered 401; check username and password, or the token"),
        ({"status": 404}, "answered 404; check the URL"),
        ({"status": 204}, "answered 204"),
        ({"body": b"<html>", "headers": {"Content-Type": "text/html"}}, "answered text/html that is not the json expected"),
        ({"body": b"\xff\xfe"}, "answered no content type that is not the json expected"),
        ({"body": b'{"other": 1}'}, "there is no 'rows' at the top, which has other"),
        ({"body": b'[{"id": 1}', "lie_bytes": 5}, "broke off in the middle of its answer"),
        ({"body": bytes(200_000)}, "the answer is longer than 100000 bytes; ask for less, or raise http.body_limit"),
        ({"body": BOMB, "headers": {"Content-Encoding": "gzip"}}, "the answer is longer than 100000 bytes"),
        ({"body": gzip.compress(b"[1, 2]")[:-9], "headers": {"Content-Encoding": "gzip"}}, "broke off in the middle"),
        ({"body": b"no gzip", "headers": {"Content-Encoding": "gzip"}}, "cannot be reached: Error -3"),
        ({"body": json.dumps({"rows": list(range(60))}).encode()}, "holds 60 records; ask for fewer, or raise max_records"),
        ({"status": 302, "headers": {"Location": "file:///etc/passwd"}}, "leads to 'file', which is not followed"),
        ({"status": 302, "headers": {"Location": "/again"}}, "leads through more than 5 redirects"),
    ],
)
async def test_a_bad_answer_is_told_and_the_next_good_one_taken(
    poll: Poll, server: Server, page: dict[str, Any], message: str
) -> None:
    server.give({"body": b'{"rows": [1]}'}, page)
    http = {"url": server.url, "records": "rows", "body_limit_bytes": 100_000}
    polled = await poll({"http": http, "max_records": 50})
    await polled.told("degraded", message)
    server.say({"rows": [1, 2]})
    await polled.told("running")
    assert polled.bodies == [1, 2] and polled.host.counts["failed_reads"] >= 1


async def test_a_server_that_is_away_is_waited_for(poll: Poll, server: Server, free_port: Callable[[], int]) -> None:
    polled = await poll({"http": {"url": f"http://127.0.0.1:{free_port()}/"}})
    await polled.told("degraded", "cannot be reached", "Connection refused")
    assert polled.host.counts["reads"] == 0


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(DEADLINE_S)


async def drip(writer: asyncio.StreamWriter) -> None:
    for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + bytes(1000):
        writer.write(bytes([letter]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def half(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[7")
    await asyncio.sleep(DEADLINE_S)


@pytest.mark.parametrize("misbehave", [silence, drip, half])
async def test_a_server_that_hangs_is_left_in_time(poll: Poll, misbehave: Callable[..., Awaitable[None]]) -> None:
    """The first connection hangs, the others are answered."""
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await reader.readuntil(b"\r\n\r\n")
        with suppress(OSError):
            if served == 1:
                await misbehave(writer)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[7]")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        polled = await poll({"http": {"url": f"http://127.0.0.1:{port}/"}, "timeout_s": 0.3})
        await polled.told("degraded", "did not answer within 0.3 s")
        await polled.told("running")
        assert polled.bodies == [7]
        await polled.stop()


async def test_a_stop_does_not_wait_for_a_hanging_server(poll: Poll, server: Server) -> None:
    go = threading.Event()
    server.give({"body": b"[7]", "hang": go})
    polled = await poll({"http": {"url": server.url}, "timeout_s": 60.0})
    await polled.until(lambda: server.asked)
    begun = time.monotonic()
    await polled.stop()
    assert time.monotonic() - begun < 5
    await polled.until(lambda: not any(thread.name.startswith("poll ") for thread in threading.enumerate()))
    go.set()


async def test_a_busy_server_says_when_to_come_back(poll: Poll, server: Server) -> None:
    server.give({"status": 429, "headers": {"Retry-After": "1"}}, {"body": b"[1]"})
    polled = await poll({"http": {"url": server.url}})
    await polled.told("degraded", "answered 429; read again in 1 s")
    begun = time.monotonic()
    await polled.told("running")
    assert time.monotonic() - begun > 0.8 and len(server.asked) >= 2


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "120"}, 120),
        ({"retry-after": "99999999"}, 3600),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:10 GMT", "date": DATE}, 60),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT", "date": DATE}, 0),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:10 GMT"}, None),
    ],
)
def test_patience_goes_by_the_servers_clock(headers: dict[str, str], expected: float | None) -> None:
    assert patience_s(headers) == expected


async def test_secrets_stay_with_the_first_host(
    poll: Poll, serve: Callable[[], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = serve(), serve()
    monkeypatch.setenv("METER_KEY", "k-123")
    (tmp_path / "token").write_text("t-456\n")
    here.give({"status": 302, "headers": {"Location": "/moved"}}, {"status": 307, "headers": {"Location": f"{there.url}/all#x"}})
    there.say([1])
    http = {"url": here.url, "headers_env": {"X-Key": "METER_KEY"}, "token_file": "token", "headers": {"X-Site": "7"}}
    polled = await poll({"http": http})
    await polled.reads()
    given = [(path, headers.get("authorization"), headers.get("x-key"), headers["x-site"]) for path, headers in here.asked[:2]]
    assert given == [("/", "Bearer t-456", "k-123", "7"), ("/moved", "Bearer t-456", "k-123", "7")]
    assert there.asked[0][0] == "/all" and not {"authorization", "x-key"} & set(there.asked[0][1])
    (tmp_path / "token").write_text("t-789 \n")
    here.say([2])
    await polled.until(lambda: here.asked[-1][1].get("authorization") == "Bearer t-789")
    assert "t-456" not in caplog.text + str(polled.host.reports)


async def test_a_password_becomes_basic_authorization(poll: Poll, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METER_PASSWORD", "open sesame")
    polled = await poll({"http": {"url": server.url, "username": "ada", "password_env": "METER_PASSWORD"}})
    await polled.reads()
    assert server.asked[0][1]["authorization"] == "Basic YWRhOm9wZW4gc2VzYW1l"


@pytest.mark.parametrize(
    ("http", "message"),
    [
        ({"token_file": "gone"}, "http.token_file: gone cannot be read: No such file or directory"),
        ({"token_env": "NOT_SET_HERE"}, "http.token_env: NOT_SET_HERE must hold one line of ASCII"),
        ({"headers_env": {"X-Key": "TWO_LINES"}}, "http.headers_env: TWO_LINES must hold one line of ASCII"),
    ],
)
async def test_a_missing_secret_is_told_and_not_shown(
    poll: Poll, server: Server, monkeypatch: pytest.MonkeyPatch, http: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("TWO_LINES", "a\nsecret")
    polled = await poll({"http": {"url": server.url, **http}})
    await polled.told("degraded", message)
    assert server.asked == [] and "secret" not in polled.state[1]


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[str]:
    """A server with TLS on loopback; its certificate is tmp_path/cert.pem."""
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(tmp_path / "key.pem")]
    command = ["openssl", "req", "-x509", "-days", "2", "-out", str(tmp_path / "cert.pem"), *key, *subject]
    subprocess.run(command, check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.path == "/plain" else 200)
            if self.path == "/plain":
                self.send_header("Location", "http://127.0.0.1/")
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"[1]")

        def log_message(self, *what: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *what: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.needs("openssl")
async def test_tls_trusts_the_authority_it_was_given(poll: Poll, secure: str) -> None:
    polled = await poll({"http": {"url": secure, "ca_file": "cert.pem"}})
    await polled.reads()
    assert polled.bodies == [1]
    stranger = await poll({"http": {"url": secure}})
    await stranger.told("degraded", "has a certificate that is not trusted", "name its authority in http.ca_file")
    downgraded = await poll({"http": {"url": f"{secure}/plain", "ca_file": "cert.pem"}})
    await downgraded.told("degraded", "leads from https to http, which is not followed")
    lost = await poll({"http": {"url": secure, "ca_file": "gone.pem"}})
    await lost.told("degraded", "http.ca_file", "holds no certificates")
