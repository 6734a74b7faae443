"""CloudEvents in both modes (handler contract, "event": `body`, `id`, `type`, `type_version`, `version`)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from edgehost.sdk.event import Event, finish

Deliver = Callable[..., Event]
ENVELOPE = {"specversion": "1.0", "id": "ce-1", "type": "plant.measured", "source": "/plant/1"}


def structured(deliver: Deliver, **attributes: Any) -> Event:
    body = json.dumps({**ENVELOPE, **attributes}).encode()
    return finish(deliver(body=body, content_type="application/cloudevents+json; charset=UTF-8", id="7"))


def test_object_data_is_a_dict_and_the_attributes_are_the_events(deliver: Deliver) -> None:
    event = structured(deliver, data={"t": 21.5})
    assert event.body == {"t": 21.5}
    assert (event.id, event.type, event.version, event.url) == ("ce-1", "plant.measured", "1.0", "/plant/1")
    assert event.content_type == "application/json"


def test_the_size_stays_that_of_the_envelope(deliver: Deliver) -> None:
    assert structured(deliver, data={}).size == len(json.dumps({**ENVELOPE, "data": {}}))


def test_names_of_version_0_1_are_read(deliver: Deliver) -> None:
    body = json.dumps(
        {
            "cloudEventsVersion": "0.1",
            "eventID": "x",
            "eventType": "t",
            "eventTypeVersion": "2",
            "contentType": "text/plain",
            "data": "hi",
        }
    ).encode()
    event = finish(deliver(body=body, content_type="application/cloudevents+json"))
    assert (event.id, event.type, event.type_version, event.version) == ("x", "t", "2", "0.1")
    assert (event.content_type, event.body) == ("text/plain", b"hi")


@pytest.mark.parametrize(
    ("attributes", "body"),
    [
        ({}, b""),
        ({"data": [1, 2]}, [1, 2]),
        ({"data": 5}, 5),
        ({"data": "hello"}, b"hello"),
        ({"data": "hello", "datacontenttype": "text/plain"}, b"hello"),
        ({"data_base64": base64.b64encode(b"\x00\xff").decode(), "datacontenttype": "application/octet-stream"}, b"\x00\xff"),
        ({"data_base64": base64.b64encode(b'{"a": 1}').decode()}, {"a": 1}),
        ({"data_base64": "not base64!"}, b"not base64!"),
    ],
)
def test_other_data_is_what_a_body_of_its_content_type_would_be(attributes: dict[str, Any], body: Any, deliver: Deliver) -> None:
    assert structured(deliver, **attributes).body == body


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[1]", b'"text"'])
def test_a_broken_envelope_is_an_ordinary_event(body: bytes, deliver: Deliver) -> None:
    event = finish(deliver(body=body, content_type="application/cloudevents+json", id="7"))
    assert (event.body, event.id, event.content_type) == (body, "7", "application/cloudevents+json")


def test_http_headers_carry_the_attributes_in_binary_mode(deliver: Deliver) -> None:
    headers = {"Ce-Specversion": "1.0", "Ce-Id": "b-1", "Ce-Type": "caf%C3%A9", "Ce-Source": "/s"}
    event = finish(deliver(body=b'{"a": 1}', content_type="application/json", headers=headers, id="7", url="u"))
    assert (event.id, event.type, event.version, event.url, event.body) == ("b-1", "café", "1.0", "/s", {"a": 1})


def test_mqtt_user_properties_carry_the_attributes_in_binary_mode(deliver: Deliver) -> None:
    event = finish(deliver(headers={"specversion": "1.0", "type": "t"}, id="7", url="mqtt://b"))
    assert (event.id, event.type, event.version, event.url) == ("7", "t", "1.0", "mqtt://b")
