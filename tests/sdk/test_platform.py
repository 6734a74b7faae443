"""Handler contract, "context": `context.platform`. The oracle of call_function is what nuclio-sdk puts into its HTTP request."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import nuclio_sdk
import pytest

from edgehost.event import Response as WireResponse
from edgehost.event import failure
from edgehost.sdk.event import Event
from edgehost.sdk.platform import Platform


class FakeConnection:
    """What nuclio-sdk needs of http.client.HTTPConnection; answers with a WireResponse."""

    def __init__(self, answer: WireResponse, *_: Any, **__: Any) -> None:
        self.status = answer.status
        self._answer = answer
        self.sent: tuple[Any, ...] = ()

    def request(self, method: str, path: str, body: Any, headers: dict[str, str]) -> None:
        self.sent = (method, path, body.encode() if isinstance(body, str) else body, dict(headers))

    def getresponse(self) -> FakeConnection:
        return self

    def read(self) -> bytes:
        return self._answer.body

    def getheaders(self) -> list[tuple[str, str]]:
        return [*self._answer.headers.items(), ("Content-Type", self._answer.content_type)]

    def close(self) -> None: ...


@pytest.fixture
def platform(link: Any) -> Platform:
    return Platform("thermo", link)


CALLS: list[dict[str, Any]] = [
    {"body": b"raw", "method": "POST", "path": "/a/b"},
    {"body": "text", "method": "PUT", "path": "/", "content_type": "text/csv"},
    {"body": {"a": 1.5, "é": None}, "method": "POST", "path": "/", "content_type": "text/plain"},
    {"body": b"x", "method": "POST", "path": "/", "headers": {"X-A": "1", "Content-Length": "99", "Content-Type": "wrong"}},
    {"body": b"x", "method": "POST", "path": "/", "headers": {"X-Nuclio-Target": "else"}},
]


@pytest.mark.parametrize("make", [nuclio_sdk.Event, Event.of], ids=["theirs", "ours"])
@pytest.mark.parametrize("fields", CALLS)
def test_the_called_function_sees_what_nuclio_would_have_sent(
    fields: dict[str, Any], make: Any, platform: Platform, link: Any
) -> None:
    connection = FakeConnection(WireResponse())
    nuclio_sdk.Platform("local", connection_provider=lambda *_, **__: connection).call_function(
        "other", nuclio_sdk.Event(**fields)
    )
    platform.call_function("other", make(**fields))
    ((function, event, timeout_s),) = link.calls
    assert (function, timeout_s) == ("other", None)
    assert (event.method, event.path, event.body, event.headers) == connection.sent
    assert event.content_type == event.headers["Content-Type"]
    assert (event.trigger.kind, event.trigger.name) == ("http", "thermo")


def test_calling_changes_nothing_about_the_callers_event(platform: Platform) -> None:
    event = Event.of(body=b"x", headers={"Content-Length": "1"})
    before = event.to_json()
    platform.call_function("other", event)
    assert event.to_json() == before


def test_an_event_of_a_functions_own_making_needs_no_more_than_a_body(platform: Platform, link: Any) -> None:
    platform.call_function("other", nuclio_sdk.Event(body=b"x"))
    platform.call_function("other", nuclio_sdk.Event())
    with_body, without = (event for _, event, _ in link.calls)
    assert (with_body.method, without.method, without.path, without.body) == ("POST", "GET", "/", b"")
    assert uuid.UUID(with_body.id).version == 4


def test_a_query_becomes_fields_and_an_id_is_kept(platform: Platform, link: Any) -> None:
    platform.call_function("other", Event.of(path="/a?x=1&y=%C3%A9&x=2&z=", fields={"f": "0", "x": "0"}, _id="e-1"))
    ((_, event, _),) = link.calls
    assert (event.path, event.fields, event.id) == ("/a", {"f": "0", "x": "2", "y": "é", "z": ""}, "e-1")


def test_an_event_that_was_received_can_be_passed_on(platform: Platform, link: Any, deliver: Callable[..., Event]) -> None:
    from edgehost.sdk.event import finish

    platform.call_function("other", finish(deliver(body=b'[1, "x"]', content_type="application/json", path="plant/1")))
    ((_, event, _),) = link.calls
    assert (json.loads(event.body), event.content_type, event.path) == ([1, "x"], "application/json", "plant/1")


ANSWERS = [
    WireResponse(200, "text/plain", {"X-Unit": "C"}, b"21"),
    WireResponse(201, "application/json", {}, b'{"a": [1, null]}'),
    WireResponse(404, "application/json; charset=utf-8", {}, b'{"a": 1}'),
    WireResponse(204, "text/plain", {}, b""),
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_answer_is_that_of_nuclio(answer: WireResponse, platform: Platform, link: Any) -> None:
    connection = FakeConnection(answer)
    event = nuclio_sdk.Event(body=b"x", method="POST")
    theirs = nuclio_sdk.Platform("local", connection_provider=lambda *_, **__: connection).call_function("other", event)
    link.answer = lambda event: answer
    assert vars(platform.call_function("other", event)) == vars(theirs)


def test_a_json_answer_that_is_none_stays_bytes(platform: Platform, link: Any) -> None:
    link.answer = lambda event: WireResponse(200, "application/json", {}, b"not json")
    assert platform.call_function("other", Event.of()).body == b"not json"


def test_a_function_that_is_not_there_answers_503(platform: Platform, link: Any) -> None:
    link.answer = lambda event: failure("not_ready", "no function 'other' here")
    response = platform.call_function("other", Event.of())
    assert (response.status_code, response.body) == (503, b"no function 'other' here")


def test_the_timeout_is_handed_on_and_its_error_comes_out(platform: Platform, link: Any) -> None:
    def late(event: Any) -> WireResponse:
        raise TimeoutError("no answer")

    link.answer = late
    with pytest.raises(TimeoutError):
        platform.call_function("other", Event.of(), timeout=0.5)
    assert link.calls[0][2] == 0.5


# Explicit acknowledgement


@pytest.mark.parametrize(
    "offset_of", [lambda event: event, nuclio_sdk.QualifiedOffset.from_event], ids=["event", "QualifiedOffset"]
)
async def test_explicit_ack_names_the_call_of_its_event(offset_of: Any, platform: Platform, link: Any, deliver: Any) -> None:
    first, second = deliver(path="same/topic"), deliver(path="same/topic")
    first._call, second._call = 41, 42
    await platform.explicit_ack(offset_of(second))
    await platform.explicit_ack(offset_of(first))
    assert link.acknowledged == [42, 41]


async def test_an_offset_from_nowhere_is_refused(platform: Platform, link: Any) -> None:
    with pytest.raises(ValueError, match=r"offset 5 does not belong to an event; pass the event itself"):
        await platform.explicit_ack(nuclio_sdk.QualifiedOffset("topic", 0, 5))
    assert link.acknowledged == []


# The end of a worker


@pytest.mark.parametrize(("register", "run"), [("set_drain_callback", "drain"), ("set_termination_callback", "terminate")])
def test_the_last_callback_set_is_the_one_that_runs(register: str, run: str, platform: Platform) -> None:
    ran: list[str] = []
    assert getattr(platform, run)() is None
    getattr(platform, register)(lambda: ran.append("first"))
    getattr(platform, register)(lambda: ran.append("last"))
    getattr(platform, run)()
    assert ran == ["last"]


async def test_a_callback_may_be_a_coroutine_function(platform: Platform) -> None:
    async def callback() -> str:
        return "drained"

    platform.set_drain_callback(callback)
    assert await platform.drain() == "drained"


def test_the_platform_is_local(platform: Platform) -> None:
    assert (platform.kind, platform.namespace) == ("local", nuclio_sdk.Platform("local").namespace)
