"""Dedupe: an event that comes again is answered and not run again, whatever has become of the one before it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgehost.delivery.dedupe import Dedupe, key_of
from edgehost.delivery.ending import Ending, Entry
from edgehost.delivery.inflow import ACCEPTED
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.rows import AnsweredRow, Change
from edgehost.event import Event, Response, failure
from edgehost.manifest.model import Dedupe as Rule
from tests.delivery.samples import received

PATIENCE_S = float(os.environ.get("EDGEHOST_TEST_PATIENCE_S", "30"))


class Bench:
    """A dedupe by the event's id over a journal. `runs` is what was run, to be answered by the test."""

    def __init__(self, journal: Journal, queue: int) -> None:
        self.journal = journal
        self.counts: Counter[str] = Counter()
        self.runs: list[tuple[Event, Entry, asyncio.Future[Response]]] = []
        self._ending = Ending("f", journal, Outbox(journal, 1 << 20, 1000.0))
        self.dedupe = Dedupe(queue, Rule("id", 3600.0), lambda event: event.id, journal, self.counts, self._run)

    def _run(self, event: Event, entry: Entry) -> asyncio.Future[Response]:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.runs.append((event, entry, future))
        return future

    async def begun(self, count: int) -> None:
        for _ in range(2000):
            if len(self.runs) >= count:
                return
            await asyncio.sleep(0.005)
        pytest.fail(f"{len(self.runs)} runs, not {count}")

    async def answer(self, index: int, response: Response) -> None:
        event, entry, future = self.runs[index]
        if response.code != "stopped":
            await self._ending.end(event, entry, response, [], True)
        future.set_result(response)


@pytest.fixture
async def bench(tmp_path: Path, whole_again: None) -> AsyncIterator[Bench]:
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    yield Bench(journal, await journal.queue("event", "f", "in"))
    await journal.close()


async def soon(future: Any) -> Any:
    return await asyncio.wait_for(asyncio.shield(future), PATIENCE_S)


def event(name: str, body: bytes = b"") -> Event:
    return Event(body, id=name)


async def test_one_that_comes_again_gets_the_kept_answer(bench: Bench) -> None:
    first = bench.dedupe.submit(event("a"), True)
    await bench.begun(1)
    await bench.answer(0, Response(201, "text/x", {"h": "v"}, b"said"))
    assert (await soon(first)).body == b"said"
    again = await soon(bench.dedupe.submit(event("a"), True))
    assert (again.status, again.content_type, again.headers, again.body) == (201, "text/x", {"h": "v"}, b"said")
    assert len(bench.runs) == 1
    assert bench.counts["duplicates"] == 1


async def test_one_that_comes_while_the_first_runs_joins_it(bench: Bench) -> None:
    futures = [bench.dedupe.submit(event("a")) for _ in range(5)]
    await bench.begun(1)
    futures += [bench.dedupe.submit(event("a")) for _ in range(5)]
    futures[0].cancel()
    await bench.answer(0, Response(body=b"said"))
    assert {(await soon(future)).body for future in futures[1:]} == {b"said"}
    assert len(bench.runs) == 1


@pytest.mark.parametrize("code", ["stopped", "not_ready", "no_room"])
async def test_those_that_joined_one_that_was_not_taken_are_not_taken_either(bench: Bench, code: str) -> None:
    futures = [bench.dedupe.submit(event("a")) for _ in range(3)]
    await bench.begun(1)
    bench.runs[0][2].set_result(failure(code, "no"))
    assert {(await soon(future)).code for future in futures} == {code}
    again = bench.dedupe.submit(event("a"))
    await bench.begun(2)
    await bench.answer(1, Response())
    assert (await soon(again)).code == ""


async def test_a_failure_told_to_its_sender_alone_is_not_that_of_another_who_was_told_nothing(bench: Bench) -> None:
    asked = bench.dedupe.submit(event("a"), True)
    plain = [bench.dedupe.submit(event("a")) for _ in range(2)]
    also_asked = bench.dedupe.submit(event("a"), True)
    await bench.begun(1)
    await bench.answer(0, failure("raised", "no"))
    assert [(await soon(each)).code for each in (asked, also_asked)] == ["raised", "raised"]
    await bench.begun(2)
    assert not any(each.done() for each in plain)
    await bench.answer(1, Response(body=b"well"))
    assert {(await soon(each)).body for each in plain} == {b"well"}


async def test_a_failure_for_good_is_the_answer_of_an_event_nobody_asked_for(bench: Bench) -> None:
    first = bench.dedupe.submit(event("a"))
    await bench.begun(1)
    await bench.answer(0, failure("raised", "no"))
    assert (await soon(first)).code == "raised"
    assert (await soon(bench.dedupe.submit(event("a")))).code == "raised"
    assert len(bench.runs) == 1


async def test_one_that_waits_on_disk_is_accepted(bench: Bench) -> None:
    await bench.journal.committed(Change((received(1, key="1/a"),)))
    assert await soon(bench.dedupe.submit(event("a"))) == ACCEPTED
    assert not bench.runs


async def test_an_answer_is_kept_so_long_and_no_longer(bench: Bench) -> None:
    now = bench.journal.now()
    kept = bench.dedupe.key(event("a")), bench.dedupe.key(event("b"))
    rows = tuple(AnsweredRow(key or "", now + keep, b"\x90") for key, keep in zip(kept, (-1.0, 1000.0), strict=True))
    await bench.journal.committed(Change(answered=rows))
    old = bench.dedupe.submit(event("a"))
    assert (await soon(bench.dedupe.submit(event("b")))).code == ""
    await bench.begun(1)
    await bench.answer(0, Response(body=b"anew"))
    assert (await soon(old)).body == b"anew"
    assert [run[0].id for run in bench.runs] == ["a"]


async def test_a_damaged_answer_is_an_answer_and_stands_in_nobodys_way(bench: Bench) -> None:
    key = bench.dedupe.key(event("a")) or ""
    await bench.journal.committed(Change(answered=(AnsweredRow(key, 1e9, b"\xff\xff"),)))
    damaged, other = bench.dedupe.submit(event("a")), bench.dedupe.submit(event("b"))
    assert (await soon(damaged)).status == 200
    await bench.begun(1)
    await bench.answer(0, Response())
    await soon(other)
    assert [run[0].id for run in bench.runs] == ["b"]


async def test_events_run_in_the_order_in_which_they_came_with_an_id_or_without(bench: Bench) -> None:
    for number in range(30):
        bench.dedupe.submit(event("" if number % 3 else f"k{number}", b"%d" % number))
        if number % 7 == 0:
            await asyncio.sleep(0)
    await bench.begun(30)
    assert [int(run[0].body) for run in bench.runs] == list(range(30))
    assert bench.counts["no_id"] == 20
    assert all((run[1].key is None) == (not run[0].id) for run in bench.runs)
    for index in range(30):
        await bench.answer(index, Response())


async def test_a_key_that_no_database_takes_harms_no_other(bench: Bench) -> None:
    futures = [bench.dedupe.submit(event(name)) for name in ("\ud800", "plain", "nul\0", "ü" * 300)]
    await bench.begun(4)
    for index in range(4):
        await bench.answer(index, Response())
    assert [(await soon(future)).code for future in futures] == [""] * 4
    again = [await soon(bench.dedupe.submit(event(name))) for name in ("\ud800", "plain", "nul\0", "ü" * 300)]
    assert [each.code for each in again] == [""] * 4
    assert len(bench.runs) == 4


async def test_without_the_journal_nothing_is_run_and_its_source_keeps_it(bench: Bench) -> None:
    await bench.journal.close()
    response = await soon(bench.dedupe.submit(event("a")))
    assert (response.code, bench.runs) == ("not_ready", [])


@pytest.mark.parametrize(
    ("by", "one", "other", "same"),
    [
        ("id", Event(id="a"), Event(b"x", id="a"), True),
        ("id", Event(id="a"), Event(id="b"), False),
        ("body", Event(b"x", id="a"), Event(b"x", id="b"), True),
        ("body", Event(b"x"), Event(b"y"), False),
        ("header:X-Key", Event(headers={"x-key": "1"}), Event(headers={"X-KEY": "1"}), True),
        ("header:X-Key", Event(headers={"x-key": "1"}), Event(headers={"x-key": "2"}), False),
        ("id", Event(id="k" * 4000), Event(id="k" * 4001), False),
    ],
)
def test_what_makes_two_events_one(by: str, one: Event, other: Event, same: bool) -> None:
    keys = [key_of(each, by, lambda event: event.id) for each in (one, other)]
    assert (keys[0] == keys[1]) is same
    assert all(0 < len(key) < 200 for key in keys)


def test_an_event_without_its_header_has_no_key() -> None:
    assert key_of(Event(), "header:X-Key", lambda event: event.id) == ""
