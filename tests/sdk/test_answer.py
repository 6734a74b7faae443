"""Handler contract, "What a return value becomes" and "Batching"; nuclio-sdk is the oracle but for the differences on purpose."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import http
import json
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import nuclio_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehost.event import Response as WireResponse
from edgehost.sdk.answer import batch_responses, holds_ack, is_stream, to_response
from edgehost.sdk.event import Event
from edgehost.sdk.jsonable import dumps
from edgehost.sdk.response import Response

Oracle = Callable[[Any], tuple[int, str, dict[str, str], bytes]]
NAN, INF = float("nan"), float("inf")


class Shown:
    def __log__(self) -> Any:
        return {"shown": [1, NAN]}


class Repr:
    def __repr__(self) -> str:
        return "a repr"


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")


class Colour(enum.IntEnum):
    RED = 3


class Text(str):
    pass


class Table(dict):  # type: ignore[type-arg]
    pass


Point = collections.namedtuple("Point", "x y")

RETURNED = [
    "",
    "text",
    "é\u20ac\U0001f600",
    Text("sub"),
    b"",
    b"\x00\xffraw",
    {},
    {"a": 1, "b": [None, True, 1.5, "é"]},
    {1: "int key", None: "none", False: "bool", 1.5: "float"},
    Table(a=1),
    collections.OrderedDict(b=1, a=2),
    [],
    [1, "two", {"three": 3}],
    [b"bytes", {1, }, datetime.datetime(2020, 10, 1), decimal.Decimal("1.0"), Colour.RED, Point(1, 2)],
    {"n": NAN, "i": [INF, -INF], "t": (NAN,)},
    {"o": Shown(), "r": Repr(), "m": Mute(), "c": Shown},
    (201, "made"),
    (404, ""),
    (202, {"a": NAN}),
    (203, [1]),
    (204, None),
    (200, 5),
    (http.HTTPStatus.CREATED, "made"),
    None,
    0,
    -5,
    10**30,
    1.5,
    NAN,
    True,
    {1},
    frozenset(),
    (),
    (1,),
    (200, "a", "b"),
    ("a", "b", "c"),
    Repr(),
    range(3),
    datetime.date(2026, 1, 2),
]  # fmt: skip


def as_tuple(response: WireResponse) -> tuple[int, str, dict[str, str], bytes]:
    assert response.code == "" and response.event_id == ""
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(response), type=WireResponse)
    return decoded.status, decoded.content_type, decoded.headers, decoded.body


@pytest.mark.parametrize("value", RETURNED, ids=lambda value: type(value).__name__)
def test_a_return_value_becomes_what_nuclio_makes_of_it(value: Any, oracle: Oracle) -> None:
    assert as_tuple(to_response(value)) == oracle(value)


RESPONSES: list[Callable[[Any], Any]] = [
    lambda response: response(),
    lambda response: response(body="text"),
    lambda response: response(body=b"\x00\xff", content_type="image/png", status_code=203),
    lambda response: response(headers={"X-A": "1", "x-b": "é"}, body="x", content_type="text/html", status_code=404),
    lambda response: response(body={"a": [1, None]}, content_type="text/plain"),
    lambda response: response(body=[1, 2]),
    lambda response: response(body=None),
    lambda response: response(body=5, content_type=""),
    lambda response: response(body=Repr()),
    lambda response: response(body=(200, "pair")),
    lambda response: response(status_code=http.HTTPStatus.CREATED),
]


@pytest.mark.parametrize("make", RESPONSES)
def test_a_response_becomes_what_nuclio_makes_of_it(make: Callable[[Any], Any], oracle: Oracle) -> None:
    expected = oracle(make(nuclio_sdk.Response))
    assert as_tuple(to_response(make(Response))) == expected
    assert as_tuple(to_response(make(nuclio_sdk.Response))) == expected, "a foreign Response counts by its shape"


@pytest.mark.parametrize("make", RESPONSES)
def test_response_has_the_attributes_and_the_repr_of_nuclio(make: Callable[[Any], Any]) -> None:
    ours, theirs = make(Response), make(nuclio_sdk.Response)
    if isinstance(ours.body, Repr):
        ours.body = theirs.body
    assert vars(ours) == vars(theirs)
    assert repr(ours) == repr(theirs)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_like)
def test_any_structure_becomes_the_json_text_of_nuclio(value: Any) -> None:
    from nuclio_sdk.json_encoder import Encoder

    assert dumps(value) == Encoder().encode(value)


@given(st.dictionaries(st.text(), json_like) | st.lists(json_like))
def test_what_is_sent_as_json_is_json(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    response = to_response(value)
    json.loads(response.body, parse_constant=refuse)
    assert (response.status, response.content_type) == (200, "application/json")


# Where the contract's table says something else than nuclio-sdk does.


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_kind_of_bytes_is_a_raw_body(kind: Any) -> None:
    """ "What a return value becomes": `bytes`, `bytearray`, `memoryview`. (nuclio-sdk sends the repr of a bytearray.)"""
    assert as_tuple(to_response(kind(b"\x00\xff"))) == (200, "text/plain", {}, b"\x00\xff")
    assert to_response(Response(body=kind(b"\x00\xff"))).body == b"\x00\xff"


def test_a_view_is_copied_because_its_memory_ends_with_the_call() -> None:
    memory = bytearray(b"abc")
    response = to_response(memoryview(memory))
    memory[:] = b"xyz"
    assert response.body == b"abc"


def test_nan_in_a_response_body_is_the_json_string_too() -> None:
    """ "NaN and infinities become the JSON strings". (nuclio-sdk sends a bare NaN here, which is not JSON.)"""
    assert to_response(Response(body={"n": NAN, "o": Repr()})).body == b'{"n": "NaN", "o": "a repr"}'


@pytest.mark.parametrize("value", [("a", "b"), (None, 1), (True, "x"), (1.5, "x")])
def test_a_pair_without_a_status_is_an_other_tuple(value: Any) -> None:
    """ "other tuples: str(value)". (nuclio-sdk sends the first member as a status its processor cannot read.)"""
    assert as_tuple(to_response(value)) == (200, "text/plain", {}, str(value).encode())


@pytest.mark.parametrize("make", [Response, nuclio_sdk.Response])
def test_only_headers_whose_value_is_a_string_travel(make: Any) -> None:
    """ "Status codes of the HTTP trigger": a response header counts only if its value is a string."""
    headers = {"X-Text": "1", "X-Number": 1, "X-None": None, "X-Bytes": b"1", 5: "five"}
    assert to_response(make(headers=headers)).headers == {"X-Text": "1"}


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert to_response("a\ud800b").body == b"a?b"
    assert to_response(Response(body="a\ud800b")).body == b"a?b"


# What JSON or HTTP cannot hold is an error with a message for the author.


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


async def forgotten() -> None:
    return None


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: {(1, 2): 3}, TypeError, "keys must be"),
        (lambda: {b"k": NAN}, TypeError, "keys must be"),
        (circle, ValueError, "Circular"),
        (lambda: Response(status_code="404"), TypeError, "'404' is not a number"),
        (lambda: Response(status_code=None), TypeError, "None is not a number"),
        (lambda: (20, "x"), ValueError, "20 is not an HTTP status"),
        (lambda: Response(status_code=12345), ValueError, "12345 is not an HTTP status"),
        (forgotten, TypeError, "returned a coroutine .forgotten."),
    ],
)
def test_what_cannot_be_sent_says_why(make: Callable[[], Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        to_response(make())


# The acknowledgement held back.


@pytest.mark.parametrize("make", [Response, nuclio_sdk.Response])
def test_ensure_no_ack_holds_the_acknowledgement_back(make: Any) -> None:
    response = make(body="x")
    assert not holds_ack(response)
    response.ensure_no_ack()
    assert holds_ack(response)
    assert to_response(response).headers == {}


@pytest.mark.parametrize("value", RETURNED, ids=lambda value: type(value).__name__)
def test_a_plain_value_holds_nothing_back_and_is_no_stream(value: Any) -> None:
    assert not holds_ack(value)
    assert not is_stream(value)


# Batching


@pytest.fixture
def events() -> list[Event]:
    return [Event.of(_id=name) for name in ("a", "b", "c")]


def shown(responses: list[WireResponse]) -> list[tuple[str, int, bytes]]:
    return [(response.event_id, response.status, response.body) for response in responses]


@pytest.mark.parametrize("make", [Response, nuclio_sdk.Response])
def test_answers_of_a_batch_find_their_events_in_any_order(make: Any, events: list[Event]) -> None:
    results = [make(body="3", event_id="c"), make(body="1", event_id="a", status_code=201), make(body="2", event_id="b")]
    assert shown(batch_responses(results, events)) == [("a", 201, b"1"), ("b", 200, b"2"), ("c", 200, b"3")]


@pytest.mark.parametrize("results", [None, [], (), [Response(body="x", event_id="z")], [Response(body="x")], ["x"], "x", {}])
def test_a_member_left_unanswered_gets_an_empty_200(results: Any, events: list[Event]) -> None:
    assert batch_responses(results, events) == [WireResponse(event_id=name) for name in ("a", "b", "c")]


def test_answers_that_name_no_event_are_told(events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        batch_responses(["x", Response(event_id="a"), Response(event_id="a")], events)
    assert "2 answers to a batch of 3 events were dropped" in caplog.text


def test_one_response_answers_its_event_without_a_list(events: list[Event]) -> None:
    assert shown(batch_responses(Response(body="2", event_id="b"), events))[1] == ("b", 200, b"2")


def test_events_that_share_an_id_are_answered_in_order() -> None:
    events = [Event.of(_id="0"), Event.of(_id="0")]  # two MQTT messages at QoS 0
    results = [Response(body="first", event_id="0"), Response(body="second", event_id="0")]
    assert shown(batch_responses(results, events)) == [("0", 200, b"first"), ("0", 200, b"second")]


@given(st.lists(st.sampled_from("abcd"), max_size=6), st.lists(st.sampled_from("abcde"), max_size=8))
def test_every_event_of_a_batch_gets_exactly_one_answer_with_its_own_id(ids: list[str], answered: list[str]) -> None:
    events = [Event.of(_id=name) for name in ids]
    responses = batch_responses([Response(body=str(place), event_id=name) for place, name in enumerate(answered)], events)
    assert [response.event_id for response in responses] == ids
    bodies = [response.body for response in responses if response.body]
    assert len(bodies) == len(set(bodies)) == sum(min(ids.count(name), answered.count(name)) for name in set(ids))
