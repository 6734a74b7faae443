"""Functions call each other and publish on their way; an event counts as handled once what it published is safe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from edgehost.errors import TriggerError
from edgehost.event import Event
from edgehost.manifest.model import Limits, OutputSpec

OUT = (OutputSpec("out", "log", Limits()),)

CALLS = """
    import time
    {definition}(context, event):
        before = time.monotonic()
        try:
            answer = context.platform.call_function("other", context.Event(body=event.body), timeout={timeout})
        except TimeoutError as error:
            return f"TimeoutError after {{time.monotonic() - before >= {timeout}}}: {{error}}"
        return f"{{answer.status_code}} {{len(answer.body)}} {{answer.body[:20]}}"
"""
FLAVOURS = {"sync": "def handler", "async": "async def handler"}
flavours = pytest.mark.parametrize("flavour", FLAVOURS)


def caller(flavour: str, timeout: float | None = None) -> str:
    return CALLS.format(definition=FLAVOURS[flavour], timeout=timeout)


@flavours
@pytest.mark.parametrize("size", [0, 10, 65_536, 65_537, 5 << 20])
async def test_a_function_gets_the_answer_of_another(engine: Any, answer: Any, flavour: str, size: int) -> None:
    await engine.function("handler = lambda context, event: event.body", "other")
    function = await engine.function(caller(flavour))
    response = await answer(function.submit(Event(b"x" * size)))
    assert response.body.decode() == f"200 {size} {b'x' * min(size, 20)!r}"


@flavours
async def test_a_function_that_is_not_there_answers_503(engine: Any, answer: Any, flavour: str) -> None:
    function = await engine.function(caller(flavour))
    assert (await answer(function.submit(Event()))).body.startswith(b"503")


@flavours
async def test_a_called_function_that_raises_answers_500(engine: Any, answer: Any, flavour: str) -> None:
    await engine.function("def handler(context, event):\n    raise ValueError('inner')", "other")
    function = await engine.function(caller(flavour))
    assert (await answer(function.submit(Event()))).body == b"500 5 b'inner'"


@flavours
async def test_a_call_gives_up_at_its_timeout_and_the_late_answer_harms_nobody(engine: Any, answer: Any, flavour: str) -> None:
    await engine.function(
        "import time\ndef handler(context, event):\n    time.sleep(float(event.body))\n    return 'slow'", "other"
    )
    function = await engine.function(caller(flavour, 0.2))
    assert (await answer(function.submit(Event(b"0.5")))).body.startswith(b"TimeoutError after True")
    await engine.until(lambda: not engine.services.functions["other"].in_flight)
    assert (await answer(function.submit(Event(b"0")))).body == b"200 4 b'slow'"


@flavours
@pytest.mark.parametrize("items", [1, 5, 300])
async def test_a_called_generator_answers_whole_and_keeps_no_worker(engine: Any, answer: Any, flavour: str, items: int) -> None:
    other = await engine.function(f"def handler(context, event):\n    for _ in range({items}):\n        yield 'ab'", "other")
    function = await engine.function(caller(flavour))
    assert (await answer(function.submit(Event()))).body.startswith(b"200 %d " % (2 * items))
    await engine.until(lambda: not other.in_flight, "the called worker to be free")


async def test_a_called_generator_that_never_ends_is_left_at_the_timeout(engine: Any, answer: Any) -> None:
    other = await engine.function("def handler(context, event):\n    while True:\n        yield 'ab'", "other")
    function = await engine.function(caller("sync", 0.3))
    assert (await answer(function.submit(Event()))).body.startswith((b"TimeoutError", b"408"))
    await engine.until(lambda: not other.in_flight, "the called worker to be free")


async def test_a_caller_that_dies_leaves_the_called_function_well(engine: Any, answer: Any) -> None:
    other = await engine.function(
        "import time\ndef handler(context, event):\n    for _ in range(100):\n        yield 'ab'", "other"
    )
    function = await engine.function("""
        import os, threading
        def handler(context, event):
            threading.Timer(0.05, os._exit, [3]).start()
            while True:
                context.platform.call_function("other", context.Event())
    """)
    assert (await answer(function.submit(Event()))).code == "worker_died"
    await engine.until(lambda: not other.in_flight, "the called worker to be free")


async def test_other_events_of_an_async_worker_are_kept_while_it_blocks_in_a_call(engine: Any, answer: Any) -> None:
    await engine.function("import time\ndef handler(context, event):\n    time.sleep(0.01)\n    return event.body", "other")
    function = await engine.function(caller("async"), concurrency=8)
    answers = await asyncio.gather(*(answer(function.submit(Event(str(n).encode()))) for n in range(40)))
    assert [response.body.decode().split(" ", 2)[2] for response in answers] == [repr(str(n).encode()) for n in range(40)]


PUBLISHES = {
    "answer": "def handler(context, event):\n    context.publish('out', b'sent')\n    return 'answer'",
    "async": "async def handler(context, event):\n    context.publish('out', b'sent')\n    return 'answer'",
    "stream": "def handler(context, event):\n    context.publish('out', b'sent')\n    yield 'answer'",
    "batch": "def handler(context, events):\n    context.publish('out', b'sent')\n    return []",
}


def gate(engine: Any) -> list[asyncio.Future[None]]:
    """Publications wait from now on, until their future here is resolved."""
    waiting: list[asyncio.Future[None]] = []

    def hold() -> asyncio.Future[None]:
        waiting.append(asyncio.get_running_loop().create_future())
        return waiting[-1]

    engine.services.publish_answer = hold
    return waiting


async def ended(submitted: asyncio.Future[Any]) -> tuple[str, str]:
    """Code and text of what a submit comes to, with its stream read to the end."""
    response = await asyncio.wait_for(submitted, 30)
    if isinstance(response, list):
        assert len({each.code for each in response}) == 1
        return response[0].code, response[0].body.decode()
    try:
        async for _ in response.chunks or _nothing():
            pass
    except ConnectionError as error:
        return "broken", str(error)
    return response.code, response.body.decode()


async def _nothing() -> Any:
    return
    yield


def submit(function: Any, kind: str) -> asyncio.Task[tuple[str, str]]:
    return asyncio.create_task(ended(function.submit([Event(id="1")] * 3 if kind == "batch" else Event(id="1"))))


@pytest.mark.parametrize("kind", PUBLISHES)
async def test_an_answer_waits_until_what_was_published_is_safe(engine: Any, kind: str) -> None:
    waiting = gate(engine)
    function = await engine.function(PUBLISHES[kind], outputs=OUT)
    ending = submit(function, kind)
    await engine.until(lambda: waiting)
    for _ in range(20):
        await asyncio.sleep(0.01)
        assert not ending.done()
    assert function.in_flight == 1, "a drain waits for it too"
    waiting[0].set_result(None)
    assert (await ending)[0] == ""
    assert [(name, event.body) for name, event in engine.services.published] == [("out", b"sent")]
    assert function.in_flight == 0


@pytest.mark.parametrize("kind", PUBLISHES)
async def test_an_event_whose_publication_is_lost_has_failed(engine: Any, kind: str, lines: Callable[[], Any]) -> None:
    waiting = gate(engine)
    function = await engine.function(PUBLISHES[kind], outputs=OUT)
    ending = submit(function, kind)
    await engine.until(lambda: waiting)
    waiting[0].set_exception(TriggerError("the broker refused"))
    code, text = await ending
    assert code == ("broken" if kind == "stream" else "raised")
    assert "the broker refused" in text
    assert (function.counters.handled, function.counters.failed) == (0, 3 if kind == "batch" else 1)
    assert any("the broker refused" in line.getMessage() for line in lines())


async def test_a_publication_outside_any_event_that_is_lost_is_told(engine: Any, lines: Callable[[], Any]) -> None:
    waiting = gate(engine)
    await engine.function(
        "def init_context(context):\n    context.publish('out', b'hello')\ndef handler(context, event):\n    pass",
        outputs=OUT,
    )
    await engine.until(lambda: waiting)
    waiting[0].set_exception(TriggerError("nobody there"))
    await engine.until(lambda: any("nobody there" in line.getMessage() for line in lines()))


async def test_messages_are_published_in_the_order_they_were_sent(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        def handler(context, event):
            for n in range(200):
                context.publish("out", str(n).encode())
        """,
        outputs=OUT,
    )
    await answer(function.submit(Event()))
    assert [event.body for _, event in engine.services.published] == [b"%d" % n for n in range(200)]
