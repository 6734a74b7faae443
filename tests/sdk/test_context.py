"""Handler contract, "context"."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import nuclio_sdk
import pytest

from edgehost.engine.spec import WorkerSpec
from edgehost.event import Event as WireEvent
from edgehost.event import Origin
from edgehost.sdk.context import Context
from edgehost.sdk.response import Response

MakeSpec = Callable[..., WorkerSpec]


@pytest.fixture
def context(make_spec: MakeSpec, link: Any) -> Context:
    return Context(make_spec(), link)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_id", "3"),
        ("function_name", "thermo"),
        ("function_version", "1.2.3"),
        ("trigger", Origin("mqtt", "temperatures")),
        ("trigger_name", "temperatures"),
        ("debug", False),
        ("Response", Response),
        ("deadline", 0.0),
    ],
)
def test_an_attribute_has_its_value_before_the_first_event(name: str, value: Any, context: Context) -> None:
    assert getattr(context, name) == value


def test_everything_a_nuclio_context_has_is_there(context: Context) -> None:
    theirs = nuclio_sdk.Context(trigger=nuclio_sdk.TriggerInfo("mqtt", "t"))
    assert [name for name in dir(theirs) if not name.startswith("_") and not hasattr(context, name)] == []
    assert [name for name in dir(theirs.platform) if not name.startswith("_") and not hasattr(context.platform, name)] == []


def test_the_trigger_is_that_of_the_event_in_hand(context: Context) -> None:
    context.trigger = Origin("http", "web")
    assert (context.trigger.kind, context.trigger_name) == ("http", "web")


def test_user_data_takes_any_attribute_and_so_does_the_context(context: Context) -> None:
    context.user_data.model = "m"
    context.mine = "n"  # type: ignore[attr-defined]  # setattr(context, ...) is how many Nuclio functions keep their state
    assert (context.user_data.model, context.mine) == ("m", "n")  # type: ignore[attr-defined]


def test_two_workers_share_nothing(make_spec: MakeSpec, link: Any) -> None:
    first, second = Context(make_spec(), link), Context(make_spec(), link)
    first.user_data.model = "m"
    assert not hasattr(second.user_data, "model")


@pytest.mark.parametrize("table", ["bindings", "models"])
def test_a_name_that_is_not_declared_says_what_to_declare(table: str, context: Context) -> None:
    with pytest.raises(KeyError) as caught:
        getattr(context, table)["db"]
    assert str(caught.value) == f"function.toml declares no [{table}.db] (declared: none); add that table to use 'db'"
    assert getattr(context, table).get("db") is None
    assert "db" not in getattr(context, table)


def test_secrets_are_there_by_name_and_never_shown(make_spec: MakeSpec, link: Any) -> None:
    link.secrets = {"db": "s3cr3t", "key": b"\xff\x00"}
    context = Context(make_spec(), link)
    assert (context.secrets["db"], context.secrets["key"]) == ("s3cr3t", b"\xff\x00")
    assert f"{context.secrets} {context.secrets!r}" == "<secrets: db, key> <secrets: db, key>"
    with pytest.raises(KeyError) as caught:
        context.secrets["mail"]
    assert str(caught.value) == "the manifest names no secret 'mail' (it has: db, key); write secrets = [\"mail\"]"


@pytest.mark.parametrize(
    ("body", "data", "content_type"),
    [
        ("é", "é".encode(), "text/plain"),
        (b"\x00", b"\x00", ""),
        (bytearray(b"a"), b"a", ""),
        ({"a": float("nan")}, b'{"a": "NaN"}', "application/json"),
        ([1], b"[1]", "application/json"),
        (21.5, b"21.5", "text/plain"),
    ],
)
def test_publish_sends_any_body_with_its_natural_type(
    body: Any, data: bytes, content_type: str, context: Context, link: Any
) -> None:
    context.publish("alarms", body)
    ((output, event),) = link.published
    assert (output, event.body, event.content_type, event.path, event.headers) == ("alarms", data, content_type, "", {})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=WireEvent) == event


def test_publish_takes_topic_headers_and_content_type(context: Context, link: Any) -> None:
    context.publish("alarms", "21.5", topic="plant/1/alarm", headers={"unit": "C"}, content_type="text/csv")
    ((_, event),) = link.published
    assert (event.path, event.headers, event.content_type) == ("plant/1/alarm", {"unit": "C"}, "text/csv")


def test_publish_to_an_output_that_is_not_declared_says_which_are(context: Context, link: Any) -> None:
    with pytest.raises(KeyError, match=r"declares no \[outputs.nope\] \(declared: \[outputs.alarms\]\)"):
        context.publish("nope", "x")
    assert link.published == []


@pytest.mark.parametrize(
    "use",
    [
        lambda context: context.publish("alarms", "x"),
        lambda context: context.platform.call_function("other", context.Event(body=b"x")),
        lambda context: context.platform.explicit_ack(context.Event()).send(None),
    ],
)
def test_another_thread_cannot_garble_the_channel(use: Callable[[Context], Any], context: Context, link: Any) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            use(context)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "outside the handler's own thread" in str(raised[0])
    assert (link.calls, link.published, link.acknowledged) == ([], [], [])


def test_a_function_can_make_an_event(context: Context) -> None:
    event = context.Event(body={"a": 1}, path="/x", headers={"A": "b"})
    assert json.loads(repr(event))["body"] == {"a": 1}
