"""A streamed answer arrives in order and whole, never runs far ahead of its reader, and ends well however it is left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgehost.engine.frames import STREAM_WINDOW
from edgehost.event import Event

GENERATORS = {"sync": "def handler", "async": "async def handler"}
flavours = pytest.mark.parametrize("flavour", GENERATORS)

COUNT = """
    import os
    {definition}(context, event):
        made = os.open("made", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for number in range(int(event.body)):
                os.write(made, b".")
                yield str(number) + ","
        finally:
            os.write(made, b"closed")
            os.close(made)
"""


async def count(engine: Any, flavour: str, **manifest: Any) -> Any:
    return await engine.function(COUNT.format(definition=GENERATORS[flavour]), **manifest)


def made(engine: Any) -> str:
    file = engine.folder / "f" / "made"
    return file.read_text() if file.exists() else ""


async def read(response: Any) -> bytes:
    return response.body + b"".join([chunk async for chunk in response.chunks])


@flavours
@pytest.mark.parametrize("items", [1, 2, STREAM_WINDOW, STREAM_WINDOW + 1, STREAM_WINDOW + 2, 500])
async def test_a_stream_arrives_whole_and_in_order(engine: Any, answer: Any, flavour: str, items: int) -> None:
    function = await count(engine, flavour)
    response = await answer(function.submit(Event(str(items).encode())))
    assert await asyncio.wait_for(read(response), 30) == b"".join(b"%d," % n for n in range(items))


@flavours
async def test_a_generator_without_items_is_an_empty_answer(engine: Any, answer: Any, flavour: str) -> None:
    function = await count(engine, flavour)
    response = await answer(function.submit(Event(b"0")))
    assert await read(response) == b"" if response.chunks else response.body == b""


@flavours
async def test_chunks_of_any_size_come_through(engine: Any, answer: Any, flavour: str) -> None:
    function = await engine.function(f"""
        {GENERATORS[flavour]}(context, event):
            for size in (0, 1, 65536, 65537, 300_000, 5 << 20):
                yield bytes([size % 251]) * size
    """)
    response = await answer(function.submit(Event()))
    whole = await asyncio.wait_for(read(response), 30)
    assert whole == b"".join(bytes([size % 251]) * size for size in (0, 1, 65536, 65537, 300_000, 5 << 20))


@flavours
async def test_a_slow_reader_holds_the_worker_back(engine: Any, answer: Any, flavour: str) -> None:
    function = await count(engine, flavour)
    response = await answer(function.submit(Event(b"100000")))
    await engine.until(lambda: len(made(engine)) >= STREAM_WINDOW)
    await asyncio.sleep(0.2)
    ahead = made(engine).count(".")
    assert ahead <= STREAM_WINDOW + 2
    assert response.chunks.unread <= STREAM_WINDOW
    for _ in range(8):
        await anext(response.chunks)
    await engine.until(lambda: made(engine).count(".") > ahead, "the worker to go on")
    await asyncio.sleep(0.1)
    assert made(engine).count(".") <= ahead + STREAM_WINDOW
    await response.chunks.aclose()


@flavours
async def test_a_reader_that_goes_away_closes_the_generator(engine: Any, answer: Any, flavour: str) -> None:
    function = await count(engine, flavour)
    pid = function.pool.workers[0].pid
    response = await answer(function.submit(Event(b"1000000000")))
    await anext(response.chunks)
    await response.chunks.aclose()
    await engine.until(lambda: made(engine).endswith("closed"), "the generator to be closed")
    with pytest.raises(StopAsyncIteration):
        await anext(response.chunks)
    second = await answer(function.submit(Event(b"3")))
    assert await read(second) == b"0,1,2,"
    assert function.pool.workers[0].pid == pid


@flavours
async def test_a_caller_that_is_gone_before_the_first_chunk_closes_the_generator(engine: Any, answer: Any, flavour: str) -> None:
    function = await count(engine, flavour)
    future = function.submit(Event(b"1000000000"))
    future.cancel()
    await engine.until(lambda: made(engine).endswith("closed"), "the generator to be closed")
    assert (await answer(function.submit(Event(b"0")))).code == ""


@flavours
@pytest.mark.parametrize(
    ("error", "code"),
    [("ValueError('halfway')", "halfway"), ("KeyboardInterrupt('stop')", "stop"), ("SystemExit(3)", r"sys\.exit\(3\)")],
)
async def test_a_stream_that_raises_breaks_off_for_its_reader(
    engine: Any, answer: Any, flavour: str, error: str, code: str
) -> None:
    function = await engine.function(f"""
        {GENERATORS[flavour]}(context, event):
            if event.id == "bad":
                yield "first"
                yield "second"
                raise {error}
            yield "good"
    """)
    response = await answer(function.submit(Event(id="bad")))
    with pytest.raises(ConnectionError, match=code):
        await asyncio.wait_for(read(response), 30)
    good = await answer(function.submit(Event()))
    assert await read(good) == b"good"
    await engine.until(lambda: function.pool.ready == 1)


@flavours
async def test_a_generator_that_raises_at_once_is_a_failed_event(engine: Any, answer: Any, flavour: str) -> None:
    function = await engine.function(f"""
        {GENERATORS[flavour]}(context, event):
            raise ValueError("at once")
            yield
    """)
    response = await answer(function.submit(Event()))
    assert (response.code, response.body) == ("raised", b"at once")
    assert (function.counters.handled, function.counters.failed) == (0, 1)


@flavours
async def test_a_worker_that_dies_breaks_its_stream_off(engine: Any, answer: Any, flavour: str) -> None:
    function = await engine.function(f"""
        import os
        {GENERATORS[flavour]}(context, event):
            yield "first"
            yield "second"
            os._exit(4)
    """)
    response = await answer(function.submit(Event()))
    with pytest.raises(ConnectionError, match="exit status 4"):
        await asyncio.wait_for(read(response), 30)


STALLS = """
    import time, asyncio
    {definition}(context, event):
        yield "first"
        for _ in range(int(event.body)):
            yield "more"
        {sleep}
        yield "never"
"""
SLEEPS = {"sync": "time.sleep(1000)", "async": "await asyncio.sleep(1000)"}


@flavours
@pytest.mark.parametrize("chunks", [0, 40])
async def test_a_stream_that_stalls_times_out(engine: Any, answer: Any, flavour: str, chunks: int) -> None:
    """Also when its reader was behind for a while, and no other event comes to wake the function."""
    function = await engine.function(STALLS.format(definition=GENERATORS[flavour], sleep=SLEEPS[flavour]), timeout_s=0.4)
    pid = function.pool.workers[0].pid
    response = await answer(function.submit(Event(str(chunks).encode())))
    await asyncio.sleep(0.6 if chunks else 0)
    assert function.pool.workers[0].pid == pid, "the time a reader takes is not the handler's"
    with pytest.raises(ConnectionError, match="did not answer"):
        await asyncio.wait_for(read(response), 30)
    await engine.until(lambda: function.pool.ready == 1 and function.pool.workers[0].pid != pid)
    assert function.counters.failed == 1


@flavours
async def test_a_slow_reader_is_no_timeout(engine: Any, answer: Any, flavour: str) -> None:
    function = await count(engine, flavour, timeout_s=0.3)
    response = await answer(function.submit(Event(b"60")))
    whole = response.body
    async for chunk in response.chunks:
        whole += chunk
        await asyncio.sleep(0.02)
    assert whole == b"".join(b"%d," % n for n in range(60))


async def test_other_events_of_an_async_worker_go_on_beside_a_stream(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        async def numbers():
            for n in range(1000):
                yield str(n)
        async def handler(context, event):
            return numbers() if event.id == "stream" else "quick"
        """,
        concurrency=4,
    )
    response = await answer(function.submit(Event(id="stream")))
    assert (await answer(function.submit(Event()))).body == b"quick"
    await response.chunks.aclose()


async def test_a_response_around_a_generator_gives_status_and_headers(engine: Any, answer: Any) -> None:
    function = await engine.function("""
        def handler(context, event):
            return context.Response(headers={"X-A": "1"}, body=iter_(), content_type="text/event-stream", status_code=206)
        def iter_():
            yield "a"
            yield "b"
    """)
    response = await answer(function.submit(Event()))
    assert (response.status, response.content_type, response.headers["X-A"]) == (206, "text/event-stream", "1")
    assert await read(response) == b"ab"
