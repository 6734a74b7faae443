"""Handler contract, "event": every attribute and method, held against nuclio-sdk's Event."""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import msgspec
import nuclio_sdk
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nuclio_sdk.event import _EventDeserializer

from edgehost.event import Event as WireEvent
from edgehost.event import Origin
from edgehost.sdk.event import Event, finish

Deliver = Callable[..., Event]
FULL: dict[str, Any] = {
    "body": b"\x00\xffraw",
    "content_type": "application/octet-stream",
    "id": "e-1",
    "timestamp": datetime(2026, 11, 23, 12, 30, 45, 123456, tzinfo=timezone.utc),
    "trigger": Origin("mqtt", "temperatures"),
    "path": "plant/1/temp",
    "headers": {"X-Unit": "C"},
    "method": "POST",
    "url": "mqtt://broker:1883",
    "fields": {"a": "1"},
    "topic": "stream",
    "offset": 77,
    "shard_id": 2,
    "num_shards": 8,
    "type": "measured",
    "type_version": "0.9",
    "version": "1.0",
    "last_in_batch": True,
}


def nuclio_event(**fields: Any) -> nuclio_sdk.Event:
    renamed = {"id": "_id", "type": "_type"}
    return nuclio_sdk.Event(**{renamed.get(name, name): value for name, value in fields.items()})


def test_every_wire_field_has_a_value_here_that_its_default_is_not() -> None:
    assert set(FULL) == set(WireEvent.__struct_fields__)
    assert all(FULL[name] != getattr(WireEvent(), name) for name in FULL)


@pytest.mark.parametrize("name", sorted(FULL))
def test_an_attribute_arrives_as_the_trigger_made_it(name: str, deliver: Deliver) -> None:
    assert getattr(finish(deliver(**FULL)), name) == FULL[name]


@pytest.mark.parametrize("name", [*sorted(FULL), "size"])
def test_an_attribute_can_be_set(name: str, deliver: Deliver) -> None:
    event = finish(deliver())
    setattr(event, name, "changed")
    assert getattr(event, name) == "changed"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content_type", ""),
        ("path", "/"),
        ("topic", ""),
        ("offset", 0),
        ("shard_id", -1),
        ("num_shards", 0),
        ("headers", {}),
        ("body", b""),
    ],
)
def test_what_a_source_lacks_has_the_value_of_the_contract(name: str, value: Any, deliver: Deliver) -> None:
    assert getattr(finish(deliver()), name) == value


def test_an_event_takes_new_attributes_and_is_a_key_like_any_object(deliver: Deliver) -> None:
    event = deliver()
    event.seen = 1
    assert event.seen == 1
    assert len({event, deliver()}) == 2
    assert weakref.ref(event)() is event
    assert copy.copy(event).path == event.path


def test_the_default_headers_of_two_events_are_two_dicts(deliver: Deliver) -> None:
    first, second = deliver(), deliver()
    first.headers["a"] = "b"
    assert second.headers == {}


def test_size_is_that_of_the_raw_body_even_when_it_was_parsed(deliver: Deliver) -> None:
    event = finish(deliver(body=b'{"a":   1}', content_type="application/json"))
    assert (event.size, event.body) == (10, {"a": 1})


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/json; charset=utf-8", "Application/JSON", "application/problem+json"]
)
def test_a_body_of_any_other_content_type_stays_bytes(content_type: str, deliver: Deliver) -> None:
    assert finish(deliver(body=b'{"a": 1}', content_type=content_type)).body == b'{"a": 1}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


json_texts = json_values.map(json.dumps) | json_values.map(lambda value: json.dumps(value, ensure_ascii=False, indent=1))


@given(json_texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary())
@example(b"NaN")
@example(b"-Infinity")
@example(b"1e400")
@example(b'"\\ud800"')
@example(b'{"a": 1, "a": 2}')
@example(b"123456789012345678901234567890")
@example(b"\xef\xbb\xbf{}")
@example(b" \t\r\n1 ")
@example(b"\x0c1")
@example(b"01")
@example(b"-0")
@example(b'"\x01"')
@example(b'"\xed\xa0\x80"')
@example(b"")
@example(b"[1,]")
@example(b"1" * 5000)
def test_a_json_body_is_parsed_exactly_where_nuclio_parses_it(body: bytes) -> None:
    event = finish(Event(body=body, content_type="application/json"))
    expected = _EventDeserializer._try_deserialize_json(body)
    assert type(event.body) is type(expected)
    assert repr(event.body) == repr(expected)  # repr: NaN is not equal to itself, and -0.0 is equal to 0.0


def test_a_view_of_a_large_body_is_parsed_too(deliver: Deliver) -> None:
    event = deliver(content_type="application/json")
    event.body = memoryview(b'[1, NaN, "x"]')
    assert repr(finish(event).body) == "[1, nan, 'x']"


@pytest.mark.parametrize("asked", ["x-unit", "X-UNIT", "X-Unit"])
def test_get_header_ignores_case(asked: str, deliver: Deliver) -> None:
    assert deliver(headers={"Other": "1", "X-Unit": "C"}).get_header(asked) == "C"


def test_get_header_of_an_absent_header_is_none(deliver: Deliver) -> None:
    assert deliver(headers={"A": "1"}).get_header("b") is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"body": b""},
        {"body": b'{"a": [1, 2.5, null]}', "content_type": "application/json"},
        {"body": b"nope", "content_type": "application/json"},
    ],
)
def test_to_json_and_repr_are_those_of_nuclio(changes: dict[str, Any], deliver: Deliver) -> None:
    event = finish(deliver(**{**FULL, **changes}))
    event.mine, event._hidden = {1, 2}, "no"
    theirs = nuclio_event(**{**FULL, **changes, "body": event.body, "size": event.size})
    theirs.mine, theirs._hidden = {1, 2}, "no"
    assert event.to_json() == theirs.to_json()
    assert repr(event) == repr(theirs)


@pytest.mark.parametrize("body", [bytearray(b"ab"), memoryview(b"ab")])
def test_to_json_shows_any_kind_of_bytes_in_base64(body: Any, deliver: Deliver) -> None:
    event = deliver()
    event.body = body
    assert json.loads(event.to_json())["body"] == "YWI="


@pytest.mark.parametrize("fields", [{}, FULL, {"topic": "", "path": "a/b", "offset": 3}])
def test_the_explicit_ack_message_is_that_of_nuclio(fields: dict[str, Any], deliver: Deliver) -> None:
    event = deliver(**fields)
    theirs = nuclio_event(path=event.path, topic=event.topic, shard_id=event.shard_id, offset=event.offset)
    assert event.compile_explicit_ack_message() == theirs.compile_explicit_ack_message()
    json.dumps(event.compile_explicit_ack_message())


def test_a_function_makes_events_with_the_arguments_of_nuclio() -> None:
    arguments = {**{name: value for name, value in FULL.items() if name not in ("id", "type")}, "_id": "e-1", "_type": "measured"}
    ours, theirs = Event.of(**arguments), nuclio_sdk.Event(**arguments)
    assert {**json.loads(ours.to_json()), "size": None} == json.loads(theirs.to_json())
    assert ours.size == 5


def test_the_wire_and_the_handler_agree_on_the_order_of_fields() -> None:
    shared = len(WireEvent.__struct_fields__)
    ours = [name.lstrip("_") for name in Event.__struct_fields__[:shared]]
    assert ours == list(WireEvent.__struct_fields__)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(WireEvent(**FULL)), type=Event).version == "1.0"
