"""Bodies of every size reach the handler and come back unchanged, by the socket or by shared memory, lent and given back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgehost.event import Event, Origin, Response

ECHO = "handler = lambda context, event: event.body"
EDGE = 64 * 1024
ARENA = 32 * 1024 * 1024


def pattern(size: int) -> bytes:
    """Bytes in which a shifted or mixed-up piece shows."""
    return (b"".join(n.to_bytes(4, "big") for n in range(min(size, 1 << 20) // 4 + 1)) * (size // (1 << 20) + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, EDGE - 1, EDGE, EDGE + 1, 100_000, 5 << 20, ARENA - 8192, ARENA, 40 << 20])
async def test_a_body_of_any_size_comes_back_as_it_went(engine: Any, answer: Any, size: int) -> None:
    function = await engine.function(ECHO)
    body = pattern(size)
    response = await answer(function.submit(Event(body, id="1")))
    assert response == Response(200, "text/plain", {}, response.body)
    assert response.body == body


async def test_many_large_bodies_at_once_keep_apart(engine: Any, answer: Any) -> None:
    function = await engine.function(ECHO, workers=2)
    bodies = [bytes([n]) * (EDGE + n * 4099) for n in range(100)]
    answers = await asyncio.gather(*(answer(function.submit(Event(body))) for body in bodies))
    assert [response.body for response in answers] == bodies


async def test_more_than_the_arena_holds_goes_all_the_same(engine: Any, answer: Any) -> None:
    function = await engine.function("handler = lambda context, event: str(len(event.body))")
    sizes = [5 << 20] * 20
    answers = await asyncio.gather(*(answer(function.submit(Event(bytes(size)))) for size in sizes))
    assert [int(response.body) for response in answers] == sizes


async def test_answers_larger_than_the_arena_arrive_while_others_wait(engine: Any, answer: Any) -> None:
    function = await engine.function("handler = lambda context, event: bytes(int(event.body))")
    sizes = [40 << 20, 1, 20 << 20, 20 << 20, 70_000, 0]
    answers = await asyncio.gather(*(answer(function.submit(Event(str(size).encode()))) for size in sizes))
    assert [len(response.body) for response in answers] == sizes


async def test_every_field_of_an_event_reaches_the_handler(engine: Any, answer: Any) -> None:
    function = await engine.function("""
        def handler(context, event):
            return [event.id, event.content_type, event.trigger.kind, event.trigger.name, event.path, event.headers,
                    event.method, event.url, event.fields, event.topic, event.offset, event.size, event.last_in_batch]
    """)
    event = Event(
        b"abc", "text/csv", "id-1", trigger=Origin("mqtt", "in"), path="a/b", headers={"k": "v"}, method="POST", url="/u",
        fields={"q": "1"}, topic="t", offset=7,
    )  # fmt: skip
    response = await answer(function.submit(event))
    assert response.content_type == "application/json"
    assert response.body == (b'["id-1", "text/csv", "mqtt", "in", "a/b", {"k": "v"}, "POST", "/u", {"q": "1"}, "t", 7, 3, false]')


async def test_a_view_is_read_only_and_the_same_bytes(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        def handler(context, event):
            view = event.body
            try:
                view[0] = 1
            except TypeError as error:
                return f"{type(view).__name__} {view.readonly} {len(view)} {sum(view)} {event.size}"
        """,
        body="view",
    )
    response = await answer(function.submit(Event(b"\x02" * 100_000)))
    assert response.body == b"memoryview True 100000 200000 100000"


async def test_a_small_body_is_bytes_also_with_views(engine: Any, answer: Any) -> None:
    function = await engine.function("handler = lambda context, event: type(event.body).__name__", body="view")
    assert (await answer(function.submit(Event(b"abc")))).body == b"bytes"


async def test_a_view_ends_with_its_event(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        kept = []
        def handler(context, event):
            if kept:
                try:
                    return str(kept.pop()[0])
                except ValueError as error:
                    return str(error)
            kept.append(event.body)
        """,
        body="view",
    )
    await answer(function.submit(Event(bytes(100_000))))
    assert b"released" in (await answer(function.submit(Event(bytes(100_000))))).body


async def test_a_view_that_is_kept_is_warned_about(engine: Any, answer: Any, lines: Any) -> None:
    function = await engine.function(
        """
        import ctypes
        kept = []
        def handler(context, event):
            kept.append((ctypes.c_char * 4).from_buffer_copy(event.body))
            kept.append(memoryview(event.body).cast("B"))
            import array
            kept.append(__import__("pickle").PickleBuffer(event.body))
            return "ok"
        """,
        body="view",
    )
    assert (await answer(function.submit(Event(bytes(100_000), id="e7")))).body == b"ok"
    await engine.until(lambda: [line for line in lines() if "kept a view" in line.getMessage() and line.levelname == "WARNING"])


async def test_a_view_may_be_the_answer(engine: Any, answer: Any) -> None:
    function = await engine.function("handler = lambda context, event: event.body[1:]", body="view")
    body = pattern(3 << 20)
    assert (await answer(function.submit(Event(body)))).body == body[1:]


@pytest.mark.parametrize("event", [Event(headers={"x": "\ud800"}), Event(path="\ud800"), Event(offset=1 << 70)])
async def test_an_event_no_wire_can_carry_is_answered_and_costs_no_worker(engine: Any, answer: Any, event: Event) -> None:
    function = await engine.function(ECHO)
    before = function.pool.workers[0].pid
    first, second = function.submit(event), function.submit(Event(b"good"))
    assert (await answer(first)).code == "raised"
    assert (await answer(second)).body == b"good"
    assert function.pool.workers[0].pid == before
