"""An answer becomes the event of another function, and a chain that bites its tail is stopped."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest

from edgehost.errors import TriggerError
from edgehost.event import Event, Response, failure
from edgehost.outputs.function import DEPTH_HEADER, MOST_DEEP, FunctionOutput


def output_to(name: str, host: Any) -> FunctionOutput:
    return FunctionOutput(msgspec.convert({"name": name}, FunctionOutput.Settings), host)


async def test_the_other_function_gets_body_type_headers_and_id(make_host: Any) -> None:
    host = make_host()
    output = output_to("next", host)
    await output.start()
    await output.send(Event(b"question", id="e7", path="/t"), Response(200, "application/json", {"X-A": "b"}, b"{}"))
    await output.stop()
    [(name, event)] = host.calls
    assert (name, event.body, event.content_type, event.id) == ("next", b"{}", "application/json", "e7")
    assert (event.trigger.kind, event.trigger.name, event.path) == ("function", "sensor", "/")
    assert event.headers == {"X-A": "b", DEPTH_HEADER: "1"}
    assert abs((datetime.now(timezone.utc) - event.timestamp).total_seconds()) < 10


async def test_a_failed_call_is_an_error_that_names_it(make_host: Any) -> None:
    host = make_host(answer=lambda name, event: failure("not_ready", "no such function"))
    with pytest.raises(TriggerError, match=r"next failed \(not_ready\): no such function"):
        await output_to("next", host).send(Event(), Response())


async def test_a_chain_that_bites_its_tail_is_stopped(make_host: Any) -> None:
    host = make_host()
    output, event = output_to("sensor", host), Event(b"round and round")
    with pytest.raises(TriggerError, match=rf"{MOST_DEEP} is the most: does one of them call the other back"):
        for _ in range(100):
            await output.send(event, Response(body=event.body))
            event = host.calls[-1][1]
    assert len(host.calls) == MOST_DEEP


@pytest.mark.parametrize("depth", ["", "x", "-1", "1e9", "9" * 5000, "²"])
async def test_a_depth_that_is_none_counts_as_the_first(make_host: Any, depth: str) -> None:
    host = make_host()
    await output_to("next", host).send(Event(headers={DEPTH_HEADER: depth}), Response(headers={DEPTH_HEADER: "3"}))
    assert host.calls[0][1].headers[DEPTH_HEADER] == "1"


def test_a_name_is_needed() -> None:
    for settings in ({}, {"name": ""}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(settings, FunctionOutput.Settings)
