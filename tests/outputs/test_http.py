"""Answers as HTTP requests to a real server: what arrives, what fails and how, kept connections, TLS, and an end in time."""

from __future__ import annotations

import asyncio
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehost.errors import AwayError, TriggerError
from edgehost.event import Event, Response
from edgehost.outputs.http import HttpOutput

DEADLINE_S = 20


class Server(http.server.ThreadingHTTPServer):
    """Answers `status` after `delay_s`, keeps what it got; `drops` connections are closed after their next answer."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.got: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.status, self.delay_s, self.drops, self.answer = 200, 0.0, 0, b"thanks"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/in?x=1"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.got.append((self.command, self.path, headers, body))
        time.sleep(self.server.delay_s)
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(self.server.answer)))
        self.end_headers()
        with suppress(ConnectionError):  # the client need not read it
            self.wfile.write(self.server.answer)
        if self.server.drops:
            self.server.drops -= 1
            self.close_connection = True  # without having said so

    do_PUT = do_POST  # noqa: N815 - the name http.server looks for

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running(server: Server) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made, running(made):
        yield made


@pytest.fixture
async def output(make_host: Callable[..., Any]) -> Any:
    """`await output(url, **settings)`: a started output."""
    made: list[HttpOutput] = []

    async def start(url: str, **settings: Any) -> HttpOutput:
        made.append(HttpOutput(msgspec.convert({"url": url, **settings}, HttpOutput.Settings), make_host()))
        await made[-1].start()
        return made[-1]

    yield start
    for one in made:
        await asyncio.wait_for(one.stop(), DEADLINE_S)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("http-output")]


async def test_the_server_gets_body_type_headers_and_id(server: Server, output: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "Bearer s3cret\n")
    out = await output(server.url, method="PUT", headers={"X-Site": "north"}, headers_env={"Authorization": "TOKEN"})
    await out.send(Event(id="e 1/ü"), Response(200, "application/json", {"X-Not": "sent"}, b"{}"))
    [(method, path, headers, body)] = server.got
    assert (method, path, body) == ("PUT", "/in?x=1", b"{}")
    assert (headers["content-type"], headers["x-site"], headers["authorization"]) == (
        "application/json",
        "north",
        "Bearer s3cret",
    )
    assert headers["x-edgehost-event-id"] == "e 1/%C3%BC"
    assert "x-not" not in headers


async def test_a_type_of_the_manifest_comes_before_the_answers(server: Server, output: Any) -> None:
    out = await output(server.url, headers={"content-type": "text/x-own"})
    await out.send(Event(), Response(200, "application/json", {}, b""))
    assert server.got[0][2]["content-type"] == "text/x-own"


async def test_answers_go_in_order_over_one_connection(server: Server, output: Any) -> None:
    out = await output(server.url)
    await asyncio.gather(*(out.send(Event(), Response(body=b"%d" % number)) for number in range(20)))
    assert [body for _, _, _, body in server.got] == [b"%d" % number for number in range(20)]
    assert server.connections == 1


async def test_a_connection_the_server_closed_is_opened_again_and_nothing_is_lost(server: Server, output: Any) -> None:
    server.drops = 3
    out = await output(server.url)
    for number in range(6):
        await out.send(Event(), Response(body=b"%d" % number))
        await asyncio.sleep(0.02)
    assert [body for _, _, _, body in server.got] == [b"%d" % number for number in range(6)]
    assert server.connections == 4


@pytest.mark.parametrize("status", [301, 400, 404, 500, 503])
async def test_any_status_but_2xx_is_an_error_that_says_it(server: Server, output: Any, status: int) -> None:
    server.status = status
    out = await output(server.url)
    with pytest.raises(TriggerError, match=rf"\[outputs\.out\].* answered {status} and not 2xx") as caught:
        await out.send(Event(), Response())
    assert isinstance(caught.value, AwayError) is (status >= 500), "whether the same answer may be taken later"
    assert len(server.got) == 1, "not followed, not tried again"
    server.status = 201
    await out.send(Event(), Response())


async def test_a_server_that_is_away_is_an_error_and_its_return_is_noticed(output: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    out = await output(f"http://127.0.0.1:{port}/")
    with pytest.raises(TriggerError, match="cannot be reached"):
        await out.send(Event(), Response())
    with Server(port) as returned, running(returned):
        await out.send(Event(), Response(body=b"back"))
        assert returned.got[0][3] == b"back"


async def test_a_server_that_does_not_answer_is_an_error_in_time(output: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        out = await output(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.1)
        with pytest.raises(TriggerError, match="cannot be reached"):
            await asyncio.wait_for(out.send(Event(), Response()), DEADLINE_S)


async def test_what_is_not_http_is_an_error(output: Any) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        writer.close()

    babbler = await asyncio.start_server(babble, "127.0.0.1", 0)
    out = await output(f"http://127.0.0.1:{babbler.sockets[0].getsockname()[1]}/", timeout_s=2)
    with pytest.raises(TriggerError, match="cannot be reached"):
        await out.send(Event(), Response())
    babbler.close()


async def test_a_huge_answer_is_not_read(server: Server, output: Any) -> None:
    server.answer = bytes(30_000_000)
    out = await output(server.url)
    await out.send(Event(), Response())
    server.answer = b""
    await out.send(Event(), Response())
    assert server.connections == 2


async def test_too_many_waiting_answers_are_refused_at_once(server: Server, output: Any) -> None:
    server.delay_s = 0.3
    out = await output(server.url, max_queued=2)

    async def send() -> None:
        await out.send(Event(), Response())

    results = await asyncio.gather(*(send() for _ in range(8)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, TriggerError)]
    assert refused
    assert all("2 answers wait" in str(error) for error in refused)
    assert len(server.got) == 8 - len(refused)


async def test_nothing_that_was_sent_before_a_refusal_was_heard_of_overtakes(server: Server, output: Any) -> None:
    server.status, server.delay_s = 503, 0.05
    out = await output(server.url)
    sends: list[asyncio.Future[None]] = []
    arrived: list[bytes] = []

    def again(done: asyncio.Future[None], body: bytes) -> None:
        if not done.cancelled() and isinstance(done.exception(), AwayError):
            arrived.append(body)

    def send(number: int) -> None:
        body = b"%d" % number
        sends.append(out.send(Event(), Response(body=body)))
        sends[-1].add_done_callback(lambda done: again(done, body))

    send(0)
    server_hears = time.monotonic() + DEADLINE_S
    while not server.got:
        assert time.monotonic() < server_hears
        time.sleep(0.001)  # noqa: ASYNC251 - the loop is not to hear of the refusal
    time.sleep(0.3)  # noqa: ASYNC251 - by now the thread knows, and would send more
    server.status = 200
    send(1)
    send(2)
    await asyncio.wait(sends)
    assert (len(server.got), arrived) == (1, [b"0", b"1", b"2"])
    await out.send(Event(), Response(body=b"now"))
    assert server.got[-1][3] == b"now"


async def test_an_answer_nobody_waits_for_any_more_is_not_sent(server: Server, output: Any) -> None:
    server.delay_s = 0.2
    out = await output(server.url)
    first = asyncio.ensure_future(out.send(Event(), Response(body=b"first")))
    second = asyncio.ensure_future(out.send(Event(), Response(body=b"second")))
    await asyncio.sleep(0.05)
    second.cancel()
    await first
    await out.stop()
    assert [body for _, _, _, body in server.got] == [b"first"]


async def test_stop_sends_what_waits_and_does_not_wait_for_ever(
    server: Server, make_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = HttpOutput(msgspec.convert({"url": server.url}, HttpOutput.Settings), make_host())
    await out.start()
    server.delay_s = 0.05
    sends = [asyncio.ensure_future(out.send(Event(), Response())) for _ in range(3)]
    await asyncio.sleep(0)
    await out.stop()
    await asyncio.gather(*sends)
    assert len(server.got) == 3

    monkeypatch.setattr("edgehost.outputs.http.STOP_S", 0.0)
    out = HttpOutput(msgspec.convert({"url": server.url}, HttpOutput.Settings), make_host())
    await out.start()
    server.delay_s = 0.3
    sends = [asyncio.ensure_future(out.send(Event(), Response())) for _ in range(3)]
    await asyncio.sleep(0.05)
    await out.stop()
    results = await asyncio.gather(*sends, return_exceptions=True)
    assert "the agent stops" in str(results[-1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "ftp://a/b"}, "is not a URL"),
        ({"url": "localhost:80"}, "is not a URL"),
        ({"url": "http:///x"}, "is not a URL"),
        ({"url": "http://a:99999/"}, "is not a URL"),
        ({"url": "http://a/b c"}, "is not a URL"),
        ({"url": "http://a/\r\nX: y"}, "is not a URL"),
        ({"url": "http://me:pw@a/"}, "headers_env"),
        ({"url": "http://a/#x"}, "fragment"),
        ({"url": "http://a/", "method": "GET"}, "method"),
        ({"url": "http://a/", "headers": {"X-A": "b\r\nX-B: c"}}, "one line"),
        ({"url": "http://a/", "headers": {"X A": "b"}}, "cannot be set"),
        ({"url": "http://a/", "headers": {"Content-Length": "1"}}, "cannot be set"),
        ({"url": "http://a/", "ca_file": "/etc/ca.pem"}, "https"),
        ({"url": "https://a/", "ca_file": "ca.pem"}, "absolute"),
        ({"url": "http://a/", "timeout_s": 0}, "timeout_s"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(settings, HttpOutput.Settings)


@pytest.mark.parametrize("value", [None, "", "two\nlines-of-secret"])
async def test_a_missing_secret_is_named_and_a_bad_one_never_shown(
    make_host: Any, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("TOKEN", value)
    settings = msgspec.convert({"url": "http://a/", "headers_env": {"Authorization": "TOKEN"}}, HttpOutput.Settings)
    with pytest.raises(TriggerError, match="TOKEN") as raised:
        await HttpOutput(settings, make_host()).start()
    assert "secret" not in str(raised.value)


async def test_a_ca_file_that_is_none_is_named(make_host: Any, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    settings = msgspec.convert({"url": "https://a/", "ca_file": str(tmp_path / "ca.pem")}, HttpOutput.Settings)
    with pytest.raises(TriggerError, match="holds no certificates"):
        await HttpOutput(settings, make_host()).start()


@pytest.mark.needs("openssl")
async def test_tls_is_checked_against_the_ca_file(server: Server, output: Any, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    assert openssl is not None
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", "key.pem", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True)  # noqa: ASYNC221
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    good = await output(url, ca_file=str(tmp_path / "cert.pem"))
    await good.send(Event(), Response(body=b"sealed"))
    assert server.got[0][3] == b"sealed"
    stranger = await output(url)
    with pytest.raises(TriggerError, match="certificate"):
        await stranger.send(Event(), Response())
