"""Delivery: tries of a failed event, and the outputs its answer must reach before anybody acknowledges it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from edgehost.delivery.ending import FINAL
from edgehost.delivery.route import Route
from edgehost.delivery.tries import Delivery, Target
from edgehost.engine.call import Stream
from edgehost.errors import TriggerError
from edgehost.event import FAILURES, Event, Origin, Response, failure
from edgehost.log import BoundLogger
from edgehost.manifest.model import Limits, OutputSpec, Retry

EVENT = Event(b"in", id="e1", trigger=Origin("mqtt", "sensors"))


class Function:
    """Answers each submit with the next of `answers`, at once; the last one for ever."""

    def __init__(self, *answers: Response) -> None:
        self.answers = list(answers)
        self.events: list[Event] = []
        self.retried = 0

    def submit(self, event: Event) -> asyncio.Future[Response]:
        self.events.append(event)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        future.set_result(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        return future

    def retry(self) -> None:
        self.retried += 1


class Sink:
    """An output. `how`: None is safe at once, a future waits, an exception is raised."""

    def __init__(self, how: Any = None) -> None:
        self.how = how
        self.got: list[tuple[Event, Response]] = []

    def send(self, event: Event, response: Response) -> Any:
        self.got.append((event, response))
        if isinstance(self.how, Exception):
            raise self.how
        return self.how


def route(sink: Sink, on: Any = "success", triggers: tuple[str, ...] = ()) -> Route:
    return Route(OutputSpec("out", "log", Limits(), on, triggers), sink)  # type: ignore[arg-type]


@pytest.fixture
async def caught() -> AsyncIterator[list[dict[str, Any]]]:
    """What the loop's exception handler was given; must stay empty."""
    caught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: caught.append(context))
    yield caught
    await asyncio.sleep(0)
    gc.collect()
    assert not caught


@pytest.fixture
def deliver(caught: None) -> Callable[..., Delivery]:
    def make(function: Function, *routes: Route, retry: Retry = Retry(1)) -> Delivery:  # noqa: B008 - a frozen value
        target = Target(function.submit, retry, routes, function.retry)
        return Delivery(target, BoundLogger(logging.getLogger("edgehost.deployment"), function="f"))

    return make


async def whole(future: asyncio.Future[Response]) -> Response:
    return await asyncio.wait_for(future, 20)


@pytest.mark.parametrize("on", ["success", "failure", "always", "never"])
@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("triggers", [(), ("sensors",), ("other",), ("other", "sensors")])
def test_a_route_takes_what_its_table_says(on: str, failed: bool, triggers: tuple[str, ...]) -> None:
    matches = {"success": not failed, "failure": failed, "always": True, "never": False}[on]
    expected = matches and (not triggers or "sensors" in triggers)
    assert route(Sink(), on, triggers).wants("sensors", failed) is expected


async def test_an_answer_reaches_every_output_that_wants_it(deliver: Any) -> None:
    sinks = [Sink(), Sink(), Sink()]
    function = Function(Response(body=b"out"))
    delivery = deliver(function, route(sinks[0]), route(sinks[1], "always"), route(sinks[2], "failure"))
    assert (await whole(delivery.submit(EVENT))).body == b"out"
    assert [[response.body for _, response in sink.got] for sink in sinks] == [[b"out"], [b"out"], []]


async def test_the_answer_waits_until_every_output_is_safe(deliver: Any) -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    answer = deliver(Function(Response()), route(Sink(first)), route(Sink(second))).submit(EVENT)
    first.set_result(None)
    await asyncio.sleep(0.01)
    assert not answer.done()
    second.set_result(None)
    assert (await whole(answer)).code == ""


@pytest.mark.parametrize("error", [TriggerError("refused"), OSError("gone"), ValueError("a bug of the output")])
@pytest.mark.parametrize("later", [False, True])
async def test_an_output_that_fails_fails_the_event(deliver: Any, error: Exception, later: bool) -> None:
    how: Any = error
    if later:
        how = asyncio.get_running_loop().create_future()
        how.set_exception(error)
    response = await whole(deliver(Function(Response()), route(Sink(how))).submit(EVENT))
    assert (response.code, response.body) == ("output_failed", str(error).encode())


@pytest.mark.parametrize("code", sorted(FAILURES))
async def test_a_failed_event_is_tried_again_unless_it_is_final(deliver: Any, code: str) -> None:
    function = Function(failure(code, "no"), Response(body=b"well"))
    answer = await whole(deliver(function, retry=Retry(3, 0.01, 0.02)).submit(EVENT))
    again = code in Retry().on
    assert not (again and code in FINAL)
    assert (answer.code, len(function.events), function.retried) == (("", 2, 1) if again else (code, 1, 0))


async def test_tries_end_with_the_last_failure(deliver: Any, caplog: pytest.LogCaptureFixture) -> None:
    function, sink = Function(failure("raised", "no")), Sink()
    answer = await whole(deliver(function, route(sink, "failure"), retry=Retry(4, 0.005, 0.01)).submit(EVENT))
    assert (answer.code, len(function.events), function.retried) == ("raised", 4, 3)
    assert len(sink.got) == 1
    assert "failed for good (raised): no" in caplog.text


async def test_an_event_that_waits_for_its_next_try_goes_to_the_new_version(deliver: Any) -> None:
    old, new = Function(failure("raised", "no")), Function(Response(body=b"new"))
    delivery = deliver(old, retry=Retry(3, 0.05, 0.1))
    answer = delivery.submit(EVENT)
    await asyncio.sleep(0)
    delivery.target = Target(new.submit, Retry(3), (), new.retry)
    assert (await whole(answer)).body == b"new"
    assert (len(old.events), len(new.events)) == (1, 1)


async def test_a_submitter_that_leaves_harms_nothing(deliver: Any) -> None:
    waits = asyncio.get_running_loop().create_future()
    function = Function(failure("raised", "no"), Response())
    sink = Sink(waits)
    for delivery in (deliver(function, retry=Retry(2, 0.01, 0.01)), deliver(Function(Response()), route(sink))):
        delivery.submit(EVENT).cancel()
    await asyncio.sleep(0.05)
    waits.set_result(None)
    await asyncio.sleep(0.01)
    assert len(function.events) == 2, "its second try came"
    assert len(sink.got) == 1, "its answer left"


def streamed(*chunks: bytes, broken: str = "") -> Response:
    stream = Stream(lambda count: None, lambda: None)
    for chunk in chunks:
        stream.add(chunk)
    stream.end(broken)
    return Response(206, "text/csv", {"a": "b"}, b"head ", chunks=stream)


async def test_outputs_get_a_stream_in_one_piece(deliver: Any) -> None:
    sink = Sink()
    await whole(deliver(Function(streamed(b"one ", b"two")), route(sink)).submit(EVENT))
    ((_, response),) = sink.got
    assert (response.status, response.content_type, response.headers) == (206, "text/csv", {"a": "b"})
    assert (response.body, response.chunks) == (b"head one two", None)


async def test_a_stream_nobody_wants_is_read_to_its_end(deliver: Any) -> None:
    response = streamed(b"one ", b"two")
    await whole(deliver(Function(response)).submit(EVENT))
    assert response.chunks.unread == 0


async def test_a_stream_that_breaks_off_is_a_failed_event(deliver: Any) -> None:
    sink = Sink()
    answer = await whole(deliver(Function(streamed(b"one ", broken="worker died")), route(sink)).submit(EVENT))
    assert answer.failed
    assert b"worker died" in answer.body
    assert not sink.got
