"""Generators as answers: the first item sets status and headers, the rest stream; nuclio-sdk is the oracle."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import nuclio_sdk
import nuclio_sdk.json_encoder
import pytest

from edgehost.event import Response as WireResponse
from edgehost.sdk.answer import is_stream, open_async_stream, open_stream
from edgehost.sdk.response import Response

Shown = tuple[int, str, dict[str, str], bytes]


def sync_items(items: list[Any]) -> Iterator[Any]:
    yield from items


async def async_items(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        await asyncio.sleep(0)
        yield item


STREAMS: dict[str, Callable[[Any, Any], Any]] = {
    "text": lambda gen, make: gen(["a", "b", "c"]),
    "bytes": lambda gen, make: gen([b"\x00", b"\xff", bytearray(b"x")]),
    "dict first": lambda gen, make: gen([{"a": 1}, "b"]),
    "status first": lambda gen, make: gen([(404, "no"), "more"]),
    "response first": lambda gen, make: gen([make(body="a", headers={"X": "1"}, status_code=201, content_type="text/csv"), "b"]),
    "responses": lambda gen, make: gen([make(body="a"), make(body=b"b", status_code=500), make(body=3)]),
    "numbers": lambda gen, make: gen([1, 2, None]),
    "body": lambda gen, make: make(body=gen(["a", "b"]), headers={"X": "1"}, status_code=202, content_type="text/event-stream"),
    "body of dicts": lambda gen, make: make(body=gen([{"a": 1}, {"b": 2}]), content_type="x/y"),
    "response in body": lambda gen, make: make(body=gen([make(body="a", status_code=500), make(body="b")]), status_code=206),
    "one": lambda gen, make: gen(["only"]),
}


async def expected(result: Any) -> tuple[Shown, list[bytes]]:
    """What nuclio-sdk sends: the first response, then the chunks."""
    encode = nuclio_sdk.json_encoder.Encoder().encode
    parts = [part async for part in nuclio_sdk.Response.from_entrypoint_output_async(encode, result)]
    head = parts[0]
    body = base64.b64decode(head["body"]) if head["body_encoding"] == "base64" else head["body"].encode()
    return (head["status_code"], head["content_type"], head["headers"], body), [base64.b64decode(part) for part in parts[1:]]


def shown(parts: list[Any]) -> tuple[Shown, list[bytes]]:
    head = parts[0]
    assert isinstance(head, WireResponse)
    return (head.status, head.content_type, head.headers, head.body), parts[1:]


@pytest.mark.parametrize("make", [Response, nuclio_sdk.Response], ids=["ours", "theirs"])
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("gen", [sync_items, async_items])
def test_a_stream_is_that_of_nuclio(gen: Any, name: str, make: Any) -> None:
    oracle = asyncio.run(expected(STREAMS[name](gen, nuclio_sdk.Response)))
    assert shown(list(open_stream(STREAMS[name](gen, make)))) == oracle

    async def collect() -> list[Any]:
        return [part async for part in open_async_stream(STREAMS[name](gen, make))]

    assert shown(asyncio.run(collect())) == oracle


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("gen", [sync_items, async_items])
def test_generators_and_responses_around_them_are_streams(gen: Any, name: str) -> None:
    assert is_stream(STREAMS[name](gen, Response))
    assert is_stream(STREAMS[name](gen, nuclio_sdk.Response))


@pytest.mark.parametrize(
    "value", [Response(body="x"), Response(body=[1]), iter([1]), nuclio_sdk.Response(), nuclio_sdk.Event(body=b"")]
)
def test_other_objects_are_not_streams(value: Any) -> None:
    assert not is_stream(value)


@pytest.mark.parametrize("gen", [sync_items, async_items])
def test_a_stream_without_items_is_an_empty_answer(gen: Any) -> None:
    assert list(open_stream(gen([]))) == [WireResponse()]
    assert list(open_stream(Response(body=gen([]), status_code=204, headers={"X": "1"}))) == [
        WireResponse(204, headers={"X": "1"})
    ]


class Cleanup:
    """A stream that notes when it has been cleaned up."""

    def __init__(self) -> None:
        self.done = False

    def sync(self) -> Iterator[str]:
        try:
            yield "a"
            yield "b"
            raise OSError("sensor gone")
        finally:
            self.done = True

    async def asynchronous(self) -> AsyncIterator[str]:
        try:
            yield "a"
            yield "b"
            raise OSError("sensor gone")
        finally:
            await asyncio.sleep(0)
            self.done = True


@pytest.mark.parametrize("kind", ["sync", "asynchronous"])
def test_a_stream_that_is_left_cleans_up_at_once(kind: str) -> None:
    cleanup = Cleanup()
    parts = open_stream(getattr(cleanup, kind)())
    next(parts)
    parts.close()
    assert cleanup.done

    async def leave(cleanup: Cleanup) -> None:
        parts = open_async_stream(getattr(cleanup, kind)())
        await parts.__anext__()
        await parts.aclose()

    cleanup = Cleanup()
    asyncio.run(leave(cleanup))
    assert cleanup.done


@pytest.mark.parametrize("kind", ["sync", "asynchronous"])
def test_what_a_stream_raises_comes_out_after_the_items_before_it(kind: str) -> None:
    cleanup, taken = Cleanup(), []
    with pytest.raises(OSError, match="sensor gone"):
        for part in open_stream(getattr(cleanup, kind)()):
            taken.append(part)
    assert taken == [WireResponse(body=b"a"), b"b"]
    assert cleanup.done
