"""The poll trigger: what it remembers, when it hands over, and how it stops."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from edgehost.event import Event, Response, failure
from edgehost.polling import sift
from edgehost.triggers.poll.settings import PollSettings

if TYPE_CHECKING:
    from tests.triggers.poll.conftest import Polled, Server

Poll = Callable[..., Awaitable["Polled"]]


class Gate:
    """A function that answers when the test lets it."""

    def __init__(self, code: str = "") -> None:
        self.open = asyncio.Event()
        self.code = code

    async def answer(self, event: Event) -> Response:
        await self.open.wait()
        return failure(self.code, "not now") if self.code else Response()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "poll" / "echo" / "records.json"


async def test_a_restart_goes_on_where_it_stopped(poll: Poll, server: Server, state: Path) -> None:
    server.say([{"id": 1}, {"id": 2}])
    settings = {"http": {"url": server.url}, "cursor": "id"}
    first = await poll(settings)
    await first.reads(2)
    await first.stop()
    assert json.loads(state.read_bytes())["memory"]["cursor"] == 2
    server.say([{"id": 2}, {"id": 3}])
    second = await poll(settings)
    await second.reads(2)
    assert second.bodies == [{"id": 3}]


async def test_nothing_is_written_while_nothing_is_new(poll: Poll, server: Server, state: Path) -> None:
    polled = await poll({"http": {"url": server.url}})
    await polled.reads(3)
    assert not state.exists()
    server.say([1])
    await polled.until(state.exists)
    written = state.stat().st_mtime_ns
    await polled.reads(3)
    assert state.stat().st_mtime_ns == written


async def test_records_that_were_not_answered_come_again_with_their_ids(poll: Poll, server: Server, state: Path) -> None:
    """The agent ends while the function still works: what it does not answer is not remembered."""
    server.say([{"id": 1}, {"id": 2}])
    settings = {"http": {"url": server.url}, "cursor": "id"}
    gate = Gate("stopped")
    first = await poll(settings, answer=gate.answer)
    await first.until(lambda: len(first.host.events) == 2)
    stopping = asyncio.create_task(first.stop())
    await asyncio.sleep(0.02)
    assert not stopping.done()
    gate.open.set()
    await stopping
    assert not state.exists()
    second = await poll(settings)
    await second.reads()
    assert [event.id for event in second.host.events] == [event.id for event in first.host.events]


async def test_a_stop_remembers_what_was_answered(poll: Poll, server: Server, state: Path) -> None:
    server.say([{"id": 1}])
    gate = Gate()
    polled = await poll({"http": {"url": server.url}, "cursor": "id"}, answer=gate.answer)
    await polled.until(lambda: polled.host.events)
    asyncio.get_running_loop().call_later(0.05, gate.open.set)
    await polled.stop()
    assert json.loads(state.read_bytes())["memory"]["cursor"] == 1


async def test_a_stop_hands_over_nothing_more(poll: Poll, server: Server, state: Path) -> None:
    server.say(list(range(100)))
    gate = Gate()
    polled = await poll({"http": {"url": server.url}, "max_in_flight": 3}, answer=gate.answer)
    await polled.until(lambda: len(polled.host.events) == 3)
    asyncio.get_running_loop().call_later(0.05, gate.open.set)
    await polled.stop()
    assert polled.bodies == [0, 1, 2] and not state.exists()


async def test_a_slow_function_holds_reading_back(poll: Poll, server: Server) -> None:
    server.say([1], [2], [3])
    gate = Gate()
    polled = await poll({"http": {"url": server.url}}, answer=gate.answer)
    await polled.until(lambda: polled.host.events)
    await asyncio.sleep(0.15)
    assert len(server.asked) == 1
    gate.open.set()
    await polled.until(lambda: polled.bodies == [1, 2, 3])
    assert polled.host.counts["skipped"] >= 3 and polled.host.counts["dropped"] == 0


async def test_a_failed_event_is_no_reason_to_read_again(poll: Poll, server: Server) -> None:
    """The function has its own [retry]; what failed for good is in the log."""
    server.say([1])
    polled = await poll({"http": {"url": server.url}}, answer=lambda event: failure("raised", "boom"))
    await polled.reads(3)
    assert polled.bodies == [1]


async def test_a_function_that_is_not_there_gets_the_records_later(poll: Poll, server: Server) -> None:
    server.give({"body": b"[1]", "headers": {"ETag": '"a"'}})
    answers = [failure("not_ready", "it starts")]
    polled = await poll({"http": {"url": server.url}}, answer=lambda event: answers.pop() if answers else Response())
    await polled.told("degraded", "the function is not there to take the records; they are read again")
    await polled.told("running")
    assert polled.bodies == [1, 1] and len({event.id for event in polled.host.events}) == 1
    assert "if-none-match" not in server.asked[1][1]


async def test_a_damaged_state_file_is_moved_aside(
    poll: Poll, server: Server, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state.parent.mkdir(parents=True)
    state.write_bytes(b'{"key": [], "cursor": "", "mem\0')
    server.say([1])
    polled = await poll({"http": {"url": server.url}})
    await polled.reads(2)
    assert polled.bodies == [1] and state.with_name("records.json.damaged").exists()
    assert "records.json is damaged and moved aside" in caplog.text


async def test_another_key_forgets_what_was_read(poll: Poll, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.say([{"id": 1, "name": "a"}])
    first = await poll({"http": {"url": server.url}, "key": "id"})
    await first.reads()
    await first.stop()
    second = await poll({"http": {"url": server.url}, "key": ["id", "name"]})
    await second.reads(2)
    assert second.bodies == [{"id": 1, "name": "a"}] and "what was read is forgotten" in caplog.text


async def test_a_full_disk_is_told_and_reading_goes_on(
    poll: Poll, server: Server, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    server.say([1])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        polled = await poll({"http": {"url": server.url}})
        await polled.told("degraded", "No space left on device", "after a restart records come again")
        await polled.reads(2)
        assert polled.bodies == [1]
    server.say([2])
    await polled.told("running")
    assert polled.bodies == [1, 2] and state.exists()


async def test_unfit_records_are_counted_and_told(poll: Poll, server: Server) -> None:
    server.say([{"id": 1}, {"name": "x"}, 5])
    polled = await poll({"http": {"url": server.url}, "key": "id"})
    await polled.told("degraded", "there is no 'id' at the top, which has name (and 1 more records are left out)")
    assert polled.bodies == [{"id": 1}] and polled.host.counts["unfit"] >= 2
    server.say([{"id": 1}])
    await polled.told("running")


async def test_emit_always_is_every_record_of_every_read(poll: Poll, server: Server) -> None:
    server.say([1, 2])
    polled = await poll({"http": {"url": server.url}, "emit": "always"})
    await polled.until(lambda: len(polled.host.events) >= 6)
    assert polled.bodies[:6] == [1, 2] * 3 and len({event.id for event in polled.host.events[:6]}) == 6


async def test_records_are_sifted_beside_the_loop(poll: Poll, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """To sift a million takes seconds, and the agent's watchdog is fed by its loop."""
    threads = set()

    def sifting(*what: Any) -> Any:
        threads.add(threading.current_thread().name)
        return sift(*what)

    monkeypatch.setattr("edgehost.triggers.poll.sift", sifting)
    server.say([1])
    polled = await poll({"http": {"url": server.url}})
    await polled.reads(2)
    assert polled.bodies == [1] and threads == {"poll echo/records"}


HTTP = {"url": "http://a/b"}
SQL = {"database": "a.db", "query": "SELECT 1"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one source"),
        ({"http": HTTP, "sql": SQL}, "give one source"),
        ({"http": HTTP, "cursor": "id", "emit": "always"}, 'emit: "always" has no use for a cursor'),
        ({"http": {"url": "http://a/{cursor}"}}, "cursor: missing; the URL holds {cursor}"),
        ({"sql": {**SQL, "query": "SELECT :cursor"}}, "cursor: missing; the query holds :cursor"),
        ({"sql": {**SQL, "driver": "os system"}}, "driver: 'os system' is not the name of a Python module"),
        ({"http": {"url": "ftp://a/b"}}, "url: 'ftp://a/b' is not a URL"),
        ({"http": {"url": "http://a/ä"}}, "is not a URL"),
        ({"http": {"url": "http://ada:pw@a/"}}, "url: holds a user name or password; use username and password_file"),
        ({"http": {**HTTP, "headers": {"X Y": "1"}}}, "headers: 'X Y' cannot be sent"),
        ({"http": {**HTTP, "headers": {"X": "1\r\nY: 2"}}}, "headers: 'X' cannot be sent"),
        ({"http": {**HTTP, "username": "ada"}}, "username: goes with password_file or password_env"),
        ({"http": {**HTTP, "token_env": "A", "token_file": "b"}}, "token_env: token_file is given too"),
        ({"http": {**HTTP, "format": "csv", "records": "a"}}, "records: goes with format"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"interval_s": 1, **settings}, PollSettings)
    assert message in str(caught.value)
