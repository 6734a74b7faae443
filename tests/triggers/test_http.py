"""What an HTTP request becomes for a function: the event, routing, methods, CORS, and bodies within bounds."""

from __future__ import annotations

import asyncio
import os
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from edgehost.errors import TriggerError
from edgehost.event import Event, Response
from edgehost.triggers.http import HttpTrigger, canonical

DEADLINE_S = 20


async def test_a_request_becomes_the_event_the_contract_describes(site: Any) -> None:
    host = await site.serve()
    before = datetime.now(timezone.utc)
    reply = await site.ask(
        "PUT", "/echo/a%20b/c?x=1&y=&x=2&z=%C3%A9", b'{"a":1}', "content-type: application/json\r\nX-TAG: one\r\nx-tag: two\r\n"
    )
    assert (reply.status, reply.body, reply.header("content-type")) == (200, b'{"a":1}', "application/json")
    [event] = host.events
    assert (event.body, event.content_type, event.method, event.path) == (b'{"a":1}', "application/json", "PUT", "/a b/c")
    assert event.url == "http://edge.local/echo/a%20b/c?x=1&y=&x=2&z=%C3%A9"
    assert event.fields == {"x": "2", "y": "", "z": "é"}
    assert event.headers == {"Host": "edge.local", "Content-Length": "7", "Content-Type": "application/json", "X-Tag": "two"}
    assert uuid.UUID(event.id).version == 4
    assert before - timedelta(seconds=1) < event.timestamp < datetime.now(timezone.utc) + timedelta(seconds=1)
    assert (event.trigger.kind, event.trigger.name) == ("http", "web")
    assert (event.topic, event.offset, event.shard_id, event.num_shards) == ("", 0, -1, 0)


@pytest.mark.parametrize(
    ("raw", "name"),
    [(b"x-nuclio-log-level", "X-Nuclio-Log-Level"), (b"HOST", "Host"), (b"etag", "Etag"), (b"x--y_z", "X--Y_z"), (b"9p", "9p")],
)
def test_header_names_come_in_canonical_case(raw: bytes, name: str) -> None:
    assert canonical(raw) == name


async def test_each_event_has_an_id_of_its_own(site: Any) -> None:
    host = await site.serve()
    for _ in range(3):
        await site.ask()
    assert len({event.id for event in host.events}) == 3


@pytest.mark.parametrize(
    ("settings", "standalone", "target", "path"),
    [
        ({}, False, "/echo", "/"),
        ({}, False, "/echo/", "/"),
        ({}, False, "/echo/a/b", "/a/b"),
        ({}, False, "/echoes", None),
        ({}, False, "/", None),
        ({}, True, "/", "/"),
        ({}, True, "/a/b", "/a/b"),
        ({}, True, "/echo/a", "/a"),
        ({"strip": False}, False, "/echo/a", "/echo/a"),
        ({"strip": False}, True, "/echo/a", "/echo/a"),
        ({"routes": ["/api/v1"]}, False, "/api/v1", "/api/v1"),
        ({"routes": ["/api/v1"]}, False, "/api/v1/x", None),
        ({"routes": ["/api/v1"]}, False, "/echo", None),
        ({"routes": ["/api/*"]}, False, "/api", "/api"),
        ({"routes": ["/api/*"]}, False, "/api/a/b", "/api/a/b"),
        ({"routes": ["/api/*"], "strip": True}, False, "/api/a/b", "/a/b"),
        ({"routes": ["/api/*", "/x"], "strip": True}, False, "/x", "/"),
        ({"routes": ["/*"]}, False, "/anything/at/all", "/anything/at/all"),
    ],
)
async def test_a_function_answers_at_its_routes_alone(
    site: Any, settings: dict[str, Any], standalone: bool, target: str, path: str | None
) -> None:
    host = await site.serve(settings, standalone=standalone)
    reply = await site.ask(target=target)
    assert reply.status == (404 if path is None else 200)
    assert [event.path for event in host.events] == ([] if path is None else [path])


async def test_the_most_particular_route_wins(site: Any) -> None:
    hosts = {
        route: await site.serve({"routes": [route]}, function_name=name)
        for name, route in [("all", "/*"), ("api", "/api/*"), ("deep", "/api/deep/*"), ("one", "/api/deep/one")]
    }
    for target in ("/x", "/api/x", "/api/deep/x", "/api/deep/one", "/api/deep/one/more"):
        await site.ask(target=target)
    seen = {route: [event.path for event in host.events] for route, host in hosts.items()}
    assert seen == {
        "/*": ["/x"],
        "/api/*": ["/api/x"],
        "/api/deep/*": ["/api/deep/x", "/api/deep/one/more"],
        "/api/deep/one": ["/api/deep/one"],
    }


async def test_two_functions_at_one_route_are_an_error_that_names_both(site: Any) -> None:
    await site.serve({"routes": ["/a", "/shared/*"]}, function_name="first")
    with pytest.raises(TriggerError, match=r"/shared/\*.*'second'.*'first'"):
        await site.serve({"routes": ["/mine", "/shared/*"]}, function_name="second")
    assert (await site.ask(target="/mine")).status == 404, "a refused trigger keeps none of its routes"
    assert (await site.ask(target="/shared/x")).status == 200


async def test_an_unknown_path_tells_nothing_about_the_functions_there_are(site: Any) -> None:
    await site.serve(function_name="secret-name")
    reply = await site.ask(target="/nobody")
    assert reply.status == 404
    assert b"secret-name" not in reply.body


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"routes": ["api"]}, "must start with '/'"),
        ({"routes": ["/a/*/b"]}, "only stand at the end"),
        ({"routes": ["/a*"]}, "only stand at the end"),
        ({"routes": ["/a/{id}"]}, "names in braces"),
        ({"routes": ["/a?b"]}, "no query"),
        ({"methods": ["get"]}, "methods"),
        ({"body_limit_bytes": 0}, "body_limit_bytes"),
        ({"wait_s": 0}, "wait_s"),
        ({"files": ["data"]}, "absolute"),
        ({"cors": {"allow_credentials": True}}, "named allow_origins"),
        ({"cors": {"allow_origins": ["a, b"]}}, "cannot stand in a header"),
        ({"port": 80}, "port"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(settings, HttpTrigger.Settings)


async def test_a_stopped_trigger_gives_its_route_back(site: Any) -> None:
    await site.serve()
    await site.triggers[0].stop()
    assert (await site.ask()).status == 404
    await site.serve(function_name="echo")
    assert (await site.ask()).status == 200


async def test_stop_waits_for_the_request_in_flight(site: Any, until: Any) -> None:
    release = asyncio.Event()

    async def slow(event: Event) -> Response:
        await release.wait()
        return Response(200, "text/plain", {}, b"done")

    host = await site.serve(answer=slow)
    asked = asyncio.ensure_future(site.ask())
    await until(lambda: host.events)
    stopping = asyncio.ensure_future(site.triggers[0].stop())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    release.set()
    assert (await asked).body == b"done"
    await asyncio.wait_for(stopping, DEADLINE_S)


@pytest.mark.parametrize(
    ("methods", "method", "status", "allow"),
    [
        ([], "DELETE", 200, None),
        (["GET"], "GET", 200, None),
        (["GET"], "HEAD", 200, None),
        (["GET"], "POST", 405, "GET, HEAD"),
        (["POST", "PUT"], "GET", 405, "POST, PUT"),
    ],
)
async def test_a_method_that_is_not_taken_is_told_which_are(
    site: Any, methods: list[str], method: str, status: int, allow: str | None
) -> None:
    await site.serve({"methods": methods})
    reply = await site.ask(method)
    assert (reply.status, reply.header("allow")) == (status, allow)


PREFLIGHT = "Origin: {origin}\r\nAccess-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: X-Key\r\n"


async def test_a_preflight_is_answered_without_the_function(site: Any) -> None:
    cors = {"allow_origins": ["https://a.example"], "allow_credentials": True, "max_age_s": 5}
    host = await site.serve({"methods": ["GET", "PUT"], "cors": cors})
    reply = await site.ask("OPTIONS", headers=PREFLIGHT.format(origin="https://a.example"))
    told = {name: value for name, value in reply.headers if name.startswith("access-control") or name == "vary"}
    assert (reply.status, reply.body, host.events) == (204, b"", [])
    assert told == {
        "vary": "Origin",
        "access-control-allow-origin": "https://a.example",
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, HEAD, PUT",
        "access-control-allow-headers": "X-Key",
        "access-control-max-age": "5",
    }


async def test_a_preflight_of_a_stranger_is_refused(site: Any) -> None:
    await site.serve({"cors": {"allow_origins": ["https://a.example"]}})
    reply = await site.ask("OPTIONS", headers=PREFLIGHT.format(origin="https://b.example"))
    assert (reply.status, reply.header("access-control-allow-origin")) == (403, None)


@pytest.mark.parametrize(
    ("cors", "origin", "allowed"),
    [
        ({}, "https://any.example", "*"),
        ({"allow_origins": ["https://a.example"]}, "https://a.example", "https://a.example"),
        ({"allow_origins": ["https://a.example"]}, "https://b.example", None),
        (None, "https://a.example", None),
    ],
)
async def test_an_answer_says_which_pages_may_read_it(site: Any, cors: Any, origin: str, allowed: str | None) -> None:
    await site.serve({"cors": cors})
    reply = await site.ask(headers=f"Origin: {origin}\r\n")
    assert (reply.status, reply.header("access-control-allow-origin")) == (200, allowed)


async def test_a_cache_learns_that_answers_differ_by_origin_from_each_of_them(site: Any) -> None:
    await site.serve({"cors": {"allow_origins": ["https://a.example"]}})
    for headers in ("", "Origin: https://a.example\r\n", "Origin: https://b.example\r\n"):
        assert (await site.ask(headers=headers)).header("vary") == "Origin"


async def test_a_refusal_too_can_be_read_by_an_allowed_page(site: Any) -> None:
    await site.serve({"cors": {}, "body_limit_bytes": 3})
    reply = await site.ask(body=b"four", headers="Origin: https://a.example\r\n")
    assert (reply.status, reply.header("access-control-allow-origin")) == (413, "*")


async def test_options_without_a_preflight_reaches_the_function(site: Any) -> None:
    host = await site.serve({"cors": {}})
    assert (await site.ask("OPTIONS")).status == 200
    assert [event.method for event in host.events] == ["OPTIONS"]


@pytest.mark.parametrize(("size", "status"), [(0, 200), (1000, 200), (1001, 413), (3_000_000, 413)])
async def test_a_declared_body_over_the_limit_gets_413(site: Any, size: int, status: int) -> None:
    host = await site.serve({"body_limit_bytes": 1000})
    reply = await site.ask(body=b"x" * size)
    assert reply.status == status
    assert [len(event.body) for event in host.events] == ([size] if status == 200 else [])


async def test_413_does_not_wait_for_a_body_that_is_announced_too_large(site: Any) -> None:
    await site.serve()
    client = await site.connect()
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
    assert (await client.reply()).status == 413


async def test_expect_100_continue_is_answered_by_413_before_the_body(site: Any) -> None:
    await site.serve()
    client = await site.connect()
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 413")


async def test_expect_100_continue_lets_a_good_body_come(site: Any) -> None:
    await site.serve()
    client = await site.connect()
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.head()).startswith(b"HTTP/1.1 100")
    client.send(b"body")
    assert (await client.reply()).body == b"body"


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_chunked_body_arrives_whole(site: Any) -> None:
    await site.serve()
    client = await site.connect()
    client.send(CHUNKED + b"3\r\nabc\r\n")
    await asyncio.sleep(0.02)
    client.send(b"2\r\nde\r\n0\r\n\r\n")
    assert (await client.reply()).body == b"abcde"


async def test_a_chunked_body_over_the_limit_gets_413_while_it_still_comes(site: Any) -> None:
    host = await site.serve({"body_limit_bytes": 50_000})
    client = await site.connect()
    client.send(CHUNKED + b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
    assert (await client.reply()).status == 413
    assert host.events == []


async def test_a_large_body_within_the_limit_arrives_whole(site: Any) -> None:
    await site.serve({"body_limit_bytes": 5_000_000})
    body = os.urandom(4 * 1024 * 1024)
    assert (await site.ask(body=body)).body == body


async def test_a_body_that_comes_too_slowly_gets_408(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehost.http.asgi.BODY_S", 0.05)
    host = await site.serve()
    client = await site.connect()
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
    assert (await client.reply()).status == 408
    assert host.events == []


async def test_a_client_that_leaves_in_its_body_is_forgotten(site: Any, until: Any) -> None:
    host = await site.serve()
    client = await site.connect()
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
    await until(lambda: site.triggers[0]._in_flight)
    client.close()
    await until(lambda: not site.triggers[0]._in_flight)
    assert host.events == []
