"""The end of an event on disk, or known by a key: one transaction, or the event is as it was; whatever its outputs do."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgehost.delivery import direct
from edgehost.delivery.ending import STAYS, Ending, Entry
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.route import Route
from edgehost.delivery.rows import Change
from edgehost.delivery.tries import Delivery, Target
from edgehost.engine.call import Stream
from edgehost.engine.frames import Publication
from edgehost.errors import AwayError, StateError, TriggerError
from edgehost.event import Event, Origin, Response, failure
from edgehost.log import BoundLogger
from edgehost.manifest.model import Limits, OutputSpec, Retry, Store
from edgehost.parcel import Parcel
from tests.delivery.samples import received

PATIENCE_S = float(os.environ.get("EDGEHOST_TEST_PATIENCE_S", "30"))
EVENT = Event(b"1", id="e1", trigger=Origin("mqtt", "in"))
LOG = BoundLogger(logging.getLogger("edgehost.deployment"), function="f")


class Out:
    """An output whose receiver is away, so that what may be stored stays on disk."""

    window: ClassVar[int] = 1
    numbered: ClassVar[bool] = False
    receiver = "nobody"
    reachable = False

    def __init__(self, how: Exception | None = None) -> None:
        self.how = how
        self.sent: list[bytes] = []

    def on_reachable(self, tell: Any) -> None:
        """Nobody comes."""

    def pack(self, event: Event, response: Response) -> Parcel:
        if isinstance(self.how, TriggerError) and not isinstance(self.how, AwayError):
            raise self.how
        return Parcel("up", response.body)

    def send(self, event: Event, response: Response) -> Any:
        if self.how is not None:
            raise self.how
        self.sent.append(response.body)
        return None

    def post(self, parcel: Parcel, late: bool, slip: Any = None) -> Any:
        raise AwayError("nobody")

    def recall(self, waits: Any, begun: bool) -> None:
        """Nothing has been sent."""


class Function:
    """Answers with the next of `answers`, and publishes `says` in each try."""

    def __init__(self, *answers: Response, says: tuple[tuple[str, bytes], ...] = ()) -> None:
        self.answers = list(answers)
        self.says = says
        self.tries = 0

    def hold(self, event: Event, kept: list[Publication]) -> asyncio.Future[Response]:
        self.tries += 1
        kept += [Publication(output, Event(body)) for output, body in self.says]
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        future.set_result(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        return future


class Bench:
    """One event on disk, `entry`, and what becomes of it."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        self.outbox = Outbox(self.journal, 1 << 20, 1000.0)
        self.ending = Ending("f", self.journal, self.outbox)

    async def entry(self, key: str | None = "1/k", attempts: int = 0) -> Entry:
        await self.journal.open()
        queue = await self.journal.queue("event", "f", "in")
        place = self.journal.take_places("event", queue)
        row = received(1, queue, key=key)
        await self.journal.committed(Change((type(row)(place, row.event, key, 0.0, attempts),)))
        return Entry(place, key, 60.0, attempts)

    async def route(self, name: str = "up", out: Out | None = None, on: Any = "success", opened: bool = True) -> Route:
        lane = self.outbox.lane("f", name)
        output: Any = out or Out()
        if opened:
            await lane.open()
        lane.attach(output, Store())
        return Route(OutputSpec(name, "mqtt", Limits(), on), output, lane)

    def delivery(self, function: Function, *routes: Route, retry: Retry = Retry(1)) -> Delivery:  # noqa: B008 - a frozen value
        target = Target(lambda event: function.hold(event, []), retry, routes, lambda: None, function.hold)
        return Delivery(target, LOG, self.ending)

    async def rows(self) -> dict[str, int]:
        """How many each table has, and the attempts of the event that is left."""

        def look(connection: Any) -> dict[str, int]:
            tables = ("events", "outbox", "answered", "dead")
            return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}

        return await self.journal.ask(look)

    async def ask(self, question: str) -> Any:
        return await self.journal.ask(lambda connection: connection.execute(question).fetchone())


def rows(events: int = 0, outbox: int = 0, answered: int = 0, dead: int = 0) -> dict[str, int]:
    return {"events": events, "outbox": outbox, "answered": answered, "dead": dead}


@pytest.fixture
async def bench(tmp_path: Path, whole_again: None) -> AsyncIterator[Bench]:
    caught: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: caught.append(context))
    one = Bench(tmp_path / "journal.db")
    yield one
    one.outbox.close()
    await one.journal.close()
    gc.collect()
    await asyncio.sleep(0)
    assert not caught


async def soon(what: Any) -> Any:
    return await asyncio.wait_for(what, PATIENCE_S)


async def test_answer_outputs_and_end_are_one_transaction(bench: Bench) -> None:
    entry = await bench.entry()
    function = Function(Response(body=b"said"), says=(("up", b"first"), ("up", b"second")))
    delivery = bench.delivery(function, await bench.route())
    begun: list[str] = []
    await bench.journal.ask(lambda connection: connection.set_trace_callback(begun.append))
    response = await soon(delivery.submit(EVENT, entry))
    assert (response.code, response.body) == ("", b"said")
    await bench.journal.ask(lambda connection: connection.set_trace_callback(None))
    writes = [each.split()[0] for each in begun if each.split()[0] in ("BEGIN", "INSERT", "DELETE", "COMMIT")]
    assert "".join(each[0] for each in writes).count("BIDIC") + "".join(each[0] for each in writes).count("BDIIC") == 1, writes
    assert await bench.rows() == rows(outbox=3, answered=1)
    assert await bench.ask('SELECT group_concat(instr(parcel, "said") > 0) FROM outbox') == ("0,0,1",), "in their order"


async def test_of_a_try_that_failed_nothing_leaves(bench: Bench) -> None:
    entry = await bench.entry()
    function = Function(failure("raised", "no"), failure("raised", "no"), Response(), says=(("up", b"x"),))
    await soon(bench.delivery(function, await bench.route(), retry=Retry(5, 0.001, 0.001)).submit(EVENT, entry))
    assert function.tries == 3
    assert await bench.rows() == rows(outbox=2, answered=1)


async def test_attempts_are_counted_on_disk_and_counted_on(bench: Bench) -> None:
    entry = await bench.entry(attempts=2)
    function = Function(failure("raised", "no"))
    delivery = bench.delivery(function, retry=Retry(4, 1000.0, 1000.0))
    answer = delivery.submit(EVENT, entry)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await bench.ask("SELECT attempts FROM events") == (3,)
    delivery.hurry()
    assert (await soon(answer)).code == "stopped"
    after = bench.delivery(function, retry=Retry(4, 1000.0, 1000.0))
    response = await soon(after.submit(EVENT, Entry(entry.place, "1/k", 60.0, 3)))
    assert response.code == "raised"
    assert await bench.rows() == rows(answered=1, dead=1)
    assert await bench.ask("SELECT attempts, code, event_id FROM dead") == (4, "raised", "e1")


@pytest.mark.parametrize("code", sorted(STAYS))
async def test_what_was_not_begun_stays_on_disk_whatever_the_retries(bench: Bench, code: str) -> None:
    entry = await bench.entry()
    response = await soon(bench.delivery(Function(failure(code, "no")), retry=Retry(1)).submit(EVENT, entry))
    assert response.code == code
    assert await bench.rows() == rows(events=1)
    assert await bench.ask("SELECT attempts FROM events") == (0,)


async def test_a_failure_after_the_hurry_waits_for_no_delay(bench: Bench) -> None:
    entry = await bench.entry()
    waits: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    target = Target(lambda event: waits, Retry(9, 1000.0, 1000.0), (), lambda: None, lambda event, kept: waits)
    delivery = Delivery(target, LOG, bench.ending)
    answer = delivery.submit(EVENT, entry)
    delivery.hurry()
    waits.set_result(failure("raised", "no"))
    assert (await soon(answer)).code == "stopped"
    assert await bench.rows() == rows(events=1)
    assert await bench.ask("SELECT attempts FROM events") == (1,), "it did run"


async def test_without_dead_letters_a_failed_event_ends_all_the_same(bench: Bench) -> None:
    entry = await bench.entry()
    retry = Retry(1, dead_letter=False)
    delivery = bench.delivery(Function(failure("raised", "no")), await bench.route(on="failure"), retry=retry)
    await soon(delivery.submit(EVENT, entry))
    assert await bench.rows() == rows(outbox=1, answered=1)


@pytest.mark.parametrize("error", [TriggerError("never"), ValueError("a bug"), AwayError("away")])
async def test_an_output_that_can_take_it_nowhere_fails_the_event_and_stores_nothing(bench: Bench, error: Exception) -> None:
    entry = await bench.entry()
    broken: Any = Out(error)
    routes = [await bench.route(), Route(OutputSpec("pin", "gpio", Limits()), broken)]
    response = await soon(bench.delivery(Function(Response(body=b"said"), says=(("up", b"x"),)), *routes).submit(EVENT, entry))
    assert (response.code, response.body) == ("output_failed", str(error).encode())
    assert await bench.rows() == rows(answered=1, dead=1)
    assert await bench.ask("SELECT code FROM dead") == ("output_failed",)


async def test_a_lane_that_had_no_place_gets_one_for_an_event_on_disk(bench: Bench) -> None:
    entry = await bench.entry()
    route = await bench.route(opened=False)
    assert not route.lane.opened  # type: ignore[union-attr]
    await soon(bench.delivery(Function(Response(body=b"said")), route).submit(EVENT, entry))
    assert await bench.rows() == rows(outbox=1, answered=1)


async def test_what_was_published_to_an_output_that_is_gone_fails_the_event(bench: Bench) -> None:
    entry = await bench.entry()
    response = await soon(bench.delivery(Function(Response(), says=(("gone", b"x"),)), await bench.route()).submit(EVENT, entry))
    assert response.code == "output_failed"
    assert b"[outputs.gone], to which it published, is gone" in response.body
    assert await bench.rows() == rows(answered=1, dead=1)


async def test_what_a_successor_published_goes_to_its_outputs(bench: Bench) -> None:
    """At a handover the call that was given to one version is handled by the next one."""
    entry = await bench.entry()
    waits: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    held: list[Publication] = []

    def hold(event: Event, kept: list[Publication]) -> asyncio.Future[Response]:
        kept.append(Publication("new", Event(b"x")))
        held.extend(kept)
        return waits

    delivery = Delivery(Target(lambda event: waits, Retry(1), (), lambda: None, hold), LOG, bench.ending)
    answer = delivery.submit(EVENT, entry)
    new = await bench.route("new", on="never")
    delivery.target = Target(lambda event: waits, Retry(1), (new,), lambda: None, hold)
    waits.set_result(Response())
    assert (await soon(answer)).code == ""
    assert await bench.rows() == rows(outbox=1, answered=1)


async def test_what_was_to_be_stored_is_sent_where_the_output_now_stores_nothing(bench: Bench) -> None:
    entry = await bench.entry()
    out = Out()
    plain: Any = Route(OutputSpec("up", "mqtt", Limits(), "never"), out)  # type: ignore[arg-type]
    await soon(bench.delivery(Function(Response(), says=(("up", b"x"),)), plain).submit(EVENT, entry))
    assert out.sent == [b"x"]
    assert await bench.rows() == rows(answered=1)


def streamed(*chunks: bytes, broken: str = "") -> Response:
    stream = Stream(lambda count: None, lambda: None)
    for chunk in chunks:
        stream.add(chunk)
    stream.end(broken)
    return Response(200, "text/csv", {}, b"head ", chunks=stream)


async def test_a_stream_is_stored_in_one_piece(bench: Bench) -> None:
    entry = await bench.entry()
    response = await soon(bench.delivery(Function(streamed(b"one ", b"two")), await bench.route()).submit(EVENT, entry))
    assert (response.body, response.chunks) == (b"head one two", None)
    assert await bench.ask('SELECT instr(parcel, "head one two") > 0 FROM outbox') == (1,)


async def test_a_stream_that_breaks_off_is_tried_again_and_dead_in_the_end(bench: Bench) -> None:
    entry = await bench.entry()
    answers = [streamed(b"one ", broken="worker died") for _ in range(3)]
    function = Function(*answers)
    response = await soon(bench.delivery(function, await bench.route(), retry=Retry(3, 0.001, 0.001)).submit(EVENT, entry))
    assert (response.code, function.tries) == ("raised", 3)
    assert b"its stream broke off: worker died" in response.body
    assert await bench.rows() == rows(answered=1, dead=1)


@pytest.mark.parametrize("place", [True, False])
async def test_a_journal_that_takes_nothing_any_more_leaves_the_event_as_it_was(bench: Bench, place: bool) -> None:
    entry = await bench.entry() if place else Entry(key="1/k", keep_s=60.0)
    delivery = bench.delivery(Function(Response()), await bench.route())
    await bench.journal.close()
    response = await soon(delivery.submit(EVENT, entry))
    assert response.code == "stopped", "so its source, or the disk, has it still"
    assert bench.outbox.bytes == 0


async def test_what_nobody_has_foreseen_leaves_the_event_as_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = await bench.entry()
    delivery = bench.delivery(Function(Response()))
    monkeypatch.setattr(bench.ending, "end", lambda *_: 1 / 0)
    assert (await soon(delivery.submit(EVENT, entry))).code == "stopped"
    assert await bench.rows() == rows(events=1)


async def test_an_asked_answer_is_kept_whole_and_an_asked_failure_not_at_all(bench: Bench) -> None:
    await bench.journal.open()
    for key, answer in (("1/a", Response(201, "text/x", {"h": "v"}, b"said")), ("1/b", failure("raised", "no"))):
        entry = Entry(key=key, keep_s=60.0, asked=True)
        await soon(bench.delivery(Function(answer)).submit(EVENT, entry))
    assert await bench.rows() == rows(answered=1)
    assert await bench.ask("SELECT key, instr(response, 'said') > 0 FROM answered") == ("1/a", 1)


async def test_a_dead_letter_is_on_disk_before_an_event_without_a_record_is_acknowledged(bench: Bench) -> None:
    delivery = bench.delivery(Function(failure("raised", "no")))
    assert (await soon(delivery.submit(EVENT))).code == "raised"
    assert await bench.rows() == rows(dead=1)


async def test_burying_says_when_it_cannot(bench: Bench) -> None:
    await bench.journal.close()
    with pytest.raises(StateError):
        await bench.ending.bury(EVENT, failure("raised", "no"), 1)


class There(Out):
    """One whose receiver is there, and says `word` of a message a little later: nothing, for as long as that is an Ellipsis."""

    reachable = True

    def __init__(self, word: Any) -> None:
        super().__init__()
        self.word = word

    def pack(self, event: Event, response: Response) -> Parcel:
        return Parcel("up", response.body)

    def send(self, event: Event, response: Response) -> Any:
        wait: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.word is None:
            asyncio.get_running_loop().call_soon(wait.set_result, None)
        elif self.word is not ...:
            asyncio.get_running_loop().call_soon(wait.set_exception, self.word)
        return wait


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize(
    ("word", "code", "left"),
    [
        (None, "", rows()),
        (TriggerError("not allowed"), "output_failed", rows(dead=1)),
        (AwayError("busy"), "", rows(outbox=1)),
        (..., "", rows(outbox=1)),
    ],
)
async def test_an_event_without_record_is_answered_when_its_receiver_has_said_its_word_or_the_disk_has_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, word: Any, code: str, left: dict[str, int], others: int
) -> None:
    monkeypatch.setattr(direct, "SPILL_S", 0.05)
    routes = [await bench.route(out=There(word)), *[await bench.route("too", There(None)) for _ in range(others)]]
    answer = bench.delivery(Function(Response(200, "text/plain", {}, b"1")), *routes).submit(EVENT)
    assert not answer.done()
    response = await asyncio.wait_for(answer, PATIENCE_S)
    assert response.code == code
    assert response.body == (b"not allowed" if code else b"1")
    assert await bench.rows() == left
