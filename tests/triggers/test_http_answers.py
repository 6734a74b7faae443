"""What a function's answer becomes for an HTTP client: status, headers, failures, streams and files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgehost.event import FAILURES, Event, Response, failure

DEADLINE_S = 20


async def test_status_type_headers_and_body_are_the_functions(site: Any) -> None:
    answer = Response(418, "application/x-tea", {"X-Pot": "short & stout", "X-Nuclio-Logs": '[{"level":"info"}]'}, b"tea")
    await site.serve(answer=lambda event: answer)
    reply = await site.ask()
    assert (reply.status, reply.body, reply.header("content-type")) == (418, b"tea", "application/x-tea")
    assert (reply.header("x-pot"), reply.header("x-nuclio-logs")) == ("short & stout", '[{"level":"info"}]')


async def test_the_log_level_asked_for_travels_to_the_worker(site: Any) -> None:
    host = await site.serve()
    await site.ask(headers="x-nuclio-log-level: debug\r\nx-edgehost-log-level: warn\r\n")
    assert host.events[0].headers["X-Nuclio-Log-Level"] == "debug"
    assert host.events[0].headers["X-Edgehost-Log-Level"] == "warn"


async def test_a_function_cannot_break_the_framing_with_its_headers(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    bad = {"Content-Length": "999", "transfer-encoding": "chunked", "Connection": "upgrade", "Date": "today", "X-Ok": "1"}
    worse = {"X-Split": "a\r\nSet-Cookie: b=1", "bad name": "x", "X-Snow": "☃", "X-Number": 5}
    await site.serve(answer=lambda event: Response(200, "text/plain\r\nX-Evil: 1", {**bad, **worse}, b"hello"))  # type: ignore[dict-item]
    reply = await site.ask()
    names = {name.lower() for name, _ in reply.headers}
    assert (reply.status, reply.body, reply.header("x-ok")) == (200, b"hello", "1")
    assert names == {"date", "content-type", "content-length", "x-ok"}
    assert "X-Split" in caplog.text


@pytest.mark.parametrize("status", [0, 100, 199, 600, 999, -1])
async def test_a_status_that_is_none_becomes_500_and_says_so(site: Any, status: int) -> None:
    await site.serve(answer=lambda event: Response(status))
    reply = await site.ask()
    assert reply.status == 500
    assert str(status).encode() in reply.body


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_none(site: Any, status: int) -> None:
    await site.serve(answer=lambda event: Response(status, "text/plain", {"X-A": "b"}, b"ignored"))
    client = await site.connect()
    client.send(site.request() + site.request())
    for _ in range(2):
        reply = await client.reply()
        assert (reply.status, reply.header("content-length"), reply.header("x-a")) == (status, None, "b")


async def test_head_has_the_length_and_not_the_body(site: Any) -> None:
    await site.serve(answer=lambda event: Response(200, "text/plain", {}, b"hello"))
    client = await site.connect()
    client.send(site.request("HEAD") + site.request("GET"))
    assert (await client.reply("HEAD")).header("content-length") == "5"
    assert (await client.reply("GET")).body == b"hello"


@pytest.mark.parametrize("code", sorted(set(FAILURES) - {"cancelled"}))
async def test_a_failure_has_its_status_and_says_when_to_come_back(site: Any, code: str) -> None:
    await site.serve(answer=lambda event: failure(code, "what went wrong"))
    reply = await site.ask()
    assert (reply.status, reply.body) == (FAILURES[code], b"what went wrong")
    assert reply.header("retry-after") == ("1" if FAILURES[code] in (429, 503) else None)


async def forever(event: Event) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_request_no_worker_took_in_time_gets_503(site: Any) -> None:
    await site.serve({"wait_s": 0.1}, answer=forever)
    assert (await site.ask()).status == 503


async def test_a_request_a_worker_has_begun_may_take_longer_than_the_wait(site: Any) -> None:
    async def slow(event: Event) -> Response:
        await asyncio.sleep(0.3)
        return Response(200, "text/plain", {}, b"late")

    await site.serve({"wait_s": 0.1}, answer=slow, begun=True)
    assert (await site.ask()).body == b"late"


async def test_nobody_waits_any_more_when_the_client_has_left(site: Any, until: Any) -> None:
    host = await site.serve(answer=forever)
    client = await site.connect()
    client.send(site.request())
    await until(lambda: host.events)
    client.close()
    await until(lambda: host.futures[0].cancelled())
    await until(lambda: not site.triggers[0]._in_flight)


@dataclass
class Source:
    """An endless or counted stream that remembers its end."""

    count: int = 3
    breaks: bool = False
    closed: bool = False
    given: int = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            while self.given < self.count:
                self.given += 1
                yield b"chunk %d;" % self.given
                await asyncio.sleep(0.01)
            if self.breaks:
                raise ConnectionError("the worker died")
        finally:
            self.closed = True

    def answer(self, event: Event) -> Response:
        return Response(200, "text/event-stream", {"X-S": "1"}, b"first;", chunks=self.chunks())


async def test_a_stream_sends_each_chunk_as_it_comes_and_keeps_the_connection(site: Any, until: Any) -> None:
    source = Source()
    await site.serve(answer=source.answer)
    client = await site.connect()
    client.send(site.request())
    assert b"text/event-stream" in await client.head()
    assert [await client.chunk() for _ in range(5)] == [b"first;", b"chunk 1;", b"chunk 2;", b"chunk 3;", b""]
    await until(lambda: source.closed)
    source.given = 0
    client.send(site.request())
    assert (await client.reply()).body == b"first;chunk 1;chunk 2;chunk 3;"


async def test_a_stream_is_closed_when_its_client_leaves(site: Any, until: Any) -> None:
    source = Source(count=10**9)
    await site.serve(answer=source.answer)
    client = await site.connect()
    client.send(site.request())
    await client.head()
    await client.chunk()
    client.close()
    await until(lambda: source.closed)
    await until(lambda: not site.triggers[0]._in_flight)


async def test_a_quiet_stream_is_closed_too_when_its_client_leaves(site: Any) -> None:
    closed = asyncio.Event()

    async def quiet() -> AsyncIterator[bytes]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            closed.set()

    await site.serve(answer=lambda event: Response(chunks=quiet()))
    client = await site.connect()
    client.send(site.request())
    await client.head()
    client.close()
    await asyncio.wait_for(closed.wait(), DEADLINE_S)


async def test_a_stream_that_breaks_off_cannot_be_taken_for_a_whole_one(site: Any) -> None:
    await site.serve(answer=Source(breaks=True).answer)
    client = await site.connect()
    client.send(site.request())
    await client.head()
    rest = await client.rest()
    assert rest.endswith(b"chunk 3;\r\n"), "no last chunk of size 0"


async def test_an_endless_stream_does_not_hold_a_stop_for_ever(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehost.triggers.http.STREAM_GRACE_S", 0.1)
    source = Source(count=10**9)
    await site.serve(answer=source.answer)
    client = await site.connect()
    client.send(site.request())
    await client.head()
    await asyncio.wait_for(site.triggers[0].stop(), DEADLINE_S)
    assert source.closed


async def test_head_and_http_1_0_get_no_stream_and_leave_none_open(site: Any) -> None:
    sources = [Source(), Source()]
    given = iter(sources)
    await site.serve(answer=lambda event: next(given).answer(event))
    assert (await site.ask("HEAD")).status == 200
    assert (await site.ask("GET", version="1.0")).status == 505
    assert [source.given for source in sources] == [0, 0]


class Pieces:
    """A stream that is told of its end by `aclose` alone, as the engine's is."""

    def __init__(self, count: int) -> None:
        self.left, self.closed = count, 0

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        await asyncio.sleep(0.01)
        return b"piece"

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("method", "version", "status", "count", "leaves"),
    [
        ("GET", "1.1", 200, 2, False),
        ("GET", "1.1", 200, 10**9, True),
        ("HEAD", "1.1", 200, 10**9, False),
        ("GET", "1.0", 200, 10**9, False),
        ("GET", "1.1", 204, 10**9, False),
        ("GET", "1.1", 999, 10**9, False),
    ],
)
async def test_a_stream_is_told_of_its_end_once_whatever_comes(
    site: Any, until: Any, method: str, version: str, status: int, count: int, leaves: bool
) -> None:
    pieces = Pieces(count)
    await site.serve(answer=lambda event: Response(status, chunks=pieces))
    client = await site.connect()
    client.send(site.request(method, version=version))
    if leaves:
        await client.head()
        client.close()
    else:
        await client.reply(method)
    await until(lambda: pieces.closed)
    await until(lambda: not site.triggers[0]._in_flight)
    assert pieces.closed == 1


async def test_a_fast_stream_waits_for_a_slow_reader(site: Any) -> None:
    given = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1
            yield b"x" * 65536
            await asyncio.sleep(0)

    await site.serve(answer=lambda event: Response(chunks=flood()))
    client = await site.connect()
    client.send(site.request())
    await client.head()
    seen = -1
    while seen != given:
        seen = given
        await asyncio.sleep(0.2)
    assert given < 1000, "what nobody reads is not produced without end"


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
async def test_a_file_of_the_function_is_streamed(site: Any, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "picture.bin").write_bytes(data)
    answer = Response(200, "image/x-test", {"X-Nuclio-Filestream-Path": "picture.bin", "X-A": "b"}, b"")
    await site.serve(answer=lambda event: answer)
    client = await site.connect()
    client.send(site.request("GET") + site.request("HEAD"))
    reply = await client.reply("GET")
    assert (reply.status, reply.body, reply.header("content-type"), reply.header("x-a")) == (200, data, "image/x-test", "b")
    assert reply.header("x-nuclio-filestream-path") is None
    assert (await client.reply("HEAD")).header("content-length") == str(size)


@pytest.mark.parametrize(
    "name", ["missing.bin", "/etc/hostname", "../outside.bin", "link", "folder", "fifo", "a\0b", "", "/proc/self/environ"]
)
async def test_nothing_else_is_streamed(
    site: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "bundle" / "tmp"))  # tmp_path itself may lie in the real one
    bundle = tmp_path / "bundle"
    (bundle / "tmp").mkdir(parents=True)
    (bundle / "folder").mkdir()
    (tmp_path / "outside.bin").write_bytes(b"secret")
    (bundle / "link").symlink_to(tmp_path / "outside.bin")
    os.mkfifo(bundle / "fifo")
    await site.serve(folder=bundle, answer=lambda event: Response(200, "text/plain", {"X-nuclio-filestream-path": name}, b""))
    reply = await site.ask()
    assert reply.status == 404
    assert b"secret" not in reply.body
    assert "files" in caplog.text


async def test_files_opens_one_more_folder(site: Any, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.bin").write_bytes(b"picture")
    answer = Response(200, "text/plain", {"X-nuclio-filestream-path": str(tmp_path / "pictures" / "a.bin")}, b"")
    await site.serve({"files": [str(tmp_path / "pictures")]}, folder=tmp_path / "bundle", answer=lambda event: answer)
    assert (await site.ask()).body == b"picture"
