"""Intake: order, bounds, what is dropped, and the source that waits instead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from edgehost.event import Event, Response, failure
from edgehost.intake import Intake, IntakeSettings


class Function:
    """A function whose answers the test gives itself, by the event's body."""

    def __init__(self) -> None:
        self.asked: dict[bytes, asyncio.Future[Response]] = {}

    def answer(self, event: Event) -> asyncio.Future[Response]:
        self.asked[event.body] = asyncio.get_running_loop().create_future()
        return self.asked[event.body]

    async def say(self, *bodies: bytes) -> None:
        for body in bodies:
            self.asked[body].set_result(Response(body=body))
        await turns()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def events(text: str) -> list[Event]:
    return [Event(body=letter.encode()) for letter in text]


@pytest.fixture
def function() -> Function:
    return Function()


async def test_answers_come_in_the_order_of_the_events(function: Function, host: Callable[..., Any]) -> None:
    told: list[bytes] = []
    intake = Intake(IntakeSettings(), host(answer=function.answer))
    for event in events("abc"):
        intake.offer(event, lambda response: told.append(response.body))
    await turns()
    await function.say(b"c", b"b")
    assert told == []
    await function.say(b"a")
    assert told == [b"a", b"b", b"c"]
    assert await intake.drain() == 0


async def test_no_more_than_max_in_flight_are_handed_over(function: Function, host: Callable[..., Any]) -> None:
    intake = Intake(IntakeSettings(max_in_flight=2), host(answer=function.answer))
    for event in events("abcd"):
        intake.offer(event)
    await turns()
    assert list(function.asked) == [b"a", b"b"]
    await function.say(b"b")
    assert list(function.asked) == [b"a", b"b", b"c"]
    await function.say(b"a", b"c")
    await function.say(b"d")
    await asyncio.wait_for(intake.drain(), 1)


@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", [b"a", b"d", b"e"]), ("drop_newest", [b"a", b"b", b"c"])])
async def test_one_too_many_is_dropped_and_counted(
    overflow: Any, kept: list[bytes], function: Function, host: Callable[..., Any]
) -> None:
    made = host(answer=function.answer)
    made.report("running", "listens")
    intake = Intake(IntakeSettings(max_in_flight=1, max_waiting=2, overflow=overflow), made)
    codes: list[tuple[bytes, str]] = []
    for event in events("abcde"):
        intake.offer(event, lambda response, body=event.body: codes.append((body, response.code)))
    assert made.counts["dropped"] == 2
    assert [state for state, _ in made.reports] == ["running", "degraded"]
    for body in kept:
        await turns()
        await function.say(body)
    assert await asyncio.wait_for(intake.drain(), 1) == 0
    assert list(function.asked) == kept
    assert sorted(codes) == [(body, "" if body in kept else "dropped") for body in (b"a", b"b", b"c", b"d", b"e")]
    assert made.reports[-1] == ("running", "listens")


@pytest.mark.parametrize("told", [("degraded", "unit 7 does not answer"), ("running", "listens again"), ("stopped", "")])
async def test_the_end_of_an_overflow_takes_back_nothing_the_trigger_has_told_since(
    told: tuple[str, str], function: Function, host: Callable[..., Any]
) -> None:
    made = host(answer=function.answer)
    intake = Intake(IntakeSettings(max_in_flight=1, max_waiting=1), made)
    made.report("running", "listens")
    for event in events("abc"):
        intake.offer(event)
    made.report(*told)
    for body in (b"a", b"c"):
        await turns()
        await function.say(body)
    assert made.counts["dropped"] == 1
    assert (made.state, made.message) == told


async def test_trouble_from_before_an_overflow_is_told_again_after_it(function: Function, host: Callable[..., Any]) -> None:
    made = host(answer=function.answer)
    intake = Intake(IntakeSettings(max_in_flight=1, max_waiting=1), made)
    made.report("degraded", "a register is refused")
    for text in ("abc", "def"):
        for event in events(text):
            intake.offer(event)
        assert made.message == "events come faster than the function answers; drop_oldest takes effect"
        for body in (text[0].encode(), text[2].encode()):
            await turns()
            await function.say(body)
        assert (made.state, made.message) == ("degraded", "a register is refused")


async def test_bodies_of_more_than_16_mib_never_wait(function: Function, host: Callable[..., Any]) -> None:
    made = host(answer=function.answer)
    intake = Intake(IntakeSettings(max_in_flight=1), made)
    intake.offer(Event(body=b"first"))
    for _ in range(5):
        intake.offer(Event(body=bytes(4 * 1024 * 1024)))
    assert made.counts["dropped"] == 1
    intake.offer(Event(body=bytes(17 * 1024 * 1024)))
    assert made.counts["dropped"] == 6, "it displaces what waits, and then has no room itself"
    await turns()
    await function.say(b"first")
    assert await intake.drain() == 0


async def test_a_source_that_can_wait_is_told_when_to_go_on(function: Function, host: Callable[..., Any]) -> None:
    roomy: list[bool] = []
    made = host(answer=function.answer)
    intake = Intake(IntakeSettings(max_in_flight=2), made, lambda: roomy.append(intake.full))
    for event in events("ab"):
        assert not intake.full
        intake.offer(event)
    assert intake.full
    await turns()
    await function.say(b"a")
    assert roomy == [False]
    await function.say(b"b")
    assert roomy == [False]
    assert made.counts["dropped"] == 0


async def test_a_drain_gives_up_what_waits_but_not_what_runs(function: Function, host: Callable[..., Any]) -> None:
    made = host(answer=function.answer)
    intake = Intake(IntakeSettings(max_in_flight=1), made)
    for event in events("abc"):
        intake.offer(event)
    draining = asyncio.ensure_future(intake.drain(0.01))
    await asyncio.sleep(0.05)
    assert not draining.done()
    await function.say(b"a")
    assert await draining == 2
    assert made.counts["dropped"] == 2


async def test_what_the_function_has_is_bounded_by_its_bytes(function: Function, host: Callable[..., Any]) -> None:
    intake = Intake(IntakeSettings(), host(answer=function.answer))
    for number in range(5):
        intake.offer(Event(body=bytes([number]) * (5 * 1024 * 1024)))
        assert intake.full == (number >= 3)
    await turns()
    assert len(function.asked) == 4
    for body in list(function.asked):
        await function.say(body)
    assert len(function.asked) == 5 and not intake.full
    await function.say(bytes([4]) * (5 * 1024 * 1024))
    assert intake.held == (0, 0) and await intake.drain() == 0


async def test_one_that_blocks_drops_nothing_and_has_room_again_when_half_has_gone(
    function: Function, host: Callable[..., Any]
) -> None:
    roomy: list[int] = []
    made = host(answer=function.answer)
    intake = Intake(IntakeSettings(1, 4, "block"), made, lambda: roomy.append(intake.held[0]))
    stuffed = []
    for event in events("abcdefg"):
        intake.offer(event)
        stuffed.append(intake.stuffed)
    assert stuffed == [False] * 4 + [True] * 3, "one read may bring more than may wait"
    for letter in "abcdefg":
        await turns()
        await function.say(letter.encode())
        assert intake.stuffed == (letter < "d")
    assert roomy == [3] and made.counts["dropped"] == 0
    assert await intake.drain() == 0


async def test_durable_events_share_the_way_to_the_disk(function: Function, host: Callable[..., Any]) -> None:
    intake = Intake(IntakeSettings(max_in_flight=1), host(answer=function.answer, durable=True))
    for event in events("abc"):
        intake.offer(event)
    await turns()
    assert list(function.asked) == [b"a", b"b", b"c"] and not intake.full
    await function.say(b"a", b"b", b"c")
    assert await intake.drain() == 0


async def test_events_that_nobody_has_any_more_are_counted(host: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    made = host(answer=lambda event: failure("no_room" if event.body == b"a" else "raised", ""))
    intake = Intake(IntakeSettings(), made)
    for event in events("ab"):
        intake.offer(event)
    intake.offer(Event(body=b"a"), lambda response: None)
    await intake.drain()
    assert made.counts["unhandled"] == 1, "the source of the third still has it"
    assert "1 events are lost" in caplog.text
