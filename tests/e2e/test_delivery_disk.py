"""Full disks, for real: a small file system that the test fills under a running agent. What was answered 202 is never lost, what
cannot be kept is refused in words, and all goes on by itself when there is room.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NoAnswerYet
from pathlib import Path

from edgehost.control.client import Client
from tests.delivery.small_disk import SmallDisk, small_disk
from tests.e2e.conftest import PATIENCE_S, Agent, AgentStarter, Answered, BundleMaker
from tests.e2e.test_delivery import NOTE, kill, noted, web

__all__ = ["small_disk"]

MIB = 1024 * 1024
UNGUARDED = "[disk]\nlogs = 1\nbundles = 1\noutbox = 1\nrefuse = 1\n"
"""No rung before the very end: the disk runs full in spite of the ladder."""


def on(disk: SmallDisk, more: str = "") -> str:
    return f'[agent]\nstate = "{disk.folder / "state"}"\n{more}'


def troubles(agent: Agent) -> list[str]:
    with Client.connect(agent.socket, PATIENCE_S) as client:
        return client.ping().troubles


def post(agent: Agent, name: str, padding: int = 0) -> Answered:
    return agent.request("POST", "/notes", name.encode() + b" " * padding)


def trigger(agent: Agent) -> tuple[str, str]:
    """State and message of the one trigger; it has none for the moment in which it is started again."""
    triggers = agent.functions()["notes"].triggers
    return (triggers[0].state, triggers[0].message) if triggers else ("", "")


def test_durable_events_are_refused_while_the_disk_is_nearly_full_and_taken_again_by_themselves(
    agent: AgentStarter, bundle: BundleMaker, small_disk: Callable[[int], SmallDisk], tmp_path: Path
) -> None:
    disk, notes = small_disk(32 * MIB), tmp_path / "out" / "notes"
    notes.parent.mkdir()
    logs = disk.folder / "state" / "logs"
    logs.mkdir(parents=True)
    for age in range(4):
        (logs / f"agent.log.{age}").write_bytes(os.urandom(256 * 1024))
        os.utime(logs / f"agent.log.{age}", (1_000_000_000 - age,) * 2)
    one = agent(bundle("notes", NOTE, web(notes)), config=on(disk), until="is ready")
    assert post(one, "before").status == 202
    assert troubles(one) == []
    disk.fill(leaving=256 * 1024)
    one.wait(lambda: trigger(one)[0] == "degraded", "the trigger to say that nothing is taken, with no event to tell it")
    assert "durable events are refused until 1.6 MiB are free; make room on the file system of" in trigger(one)[1]
    reply = post(one, "refused")
    assert (reply.status, reply.headers.get("retry-after")) == (503, "1")
    assert b"the disk is nearly full" in reply.body
    assert [path.name for path in sorted(logs.iterdir())] == ["agent.log.0"], "old logs went first, the newest stays"
    (trouble,) = troubles(one)
    assert "are free: old log files and journals set aside are deleted; cached bundles are deleted;" in trouble
    disk.empty()
    one.wait(lambda: trigger(one)[0] == "running", "the trigger to run again")
    assert post(one, "after").status == 202
    one.wait(lambda: noted(notes) == ["before", "after"], "what was taken to run")
    assert troubles(one) == []
    lines = [line for line in one.log.splitlines() if "[disk]" in line]
    assert len([line for line in lines if "less than" in line]) == 4, "each rung is said once"
    assert len([line for line in lines if "is over" in line]) == 4


def test_a_journal_that_runs_full_keeps_what_was_answered_and_goes_on_when_there_is_room(
    agent: AgentStarter, bundle: BundleMaker, small_disk: Callable[[int], SmallDisk], tmp_path: Path
) -> None:
    disk, notes = small_disk(24 * MIB), tmp_path / "out" / "notes"
    notes.parent.mkdir()
    one = agent(bundle("notes", NOTE, web(notes, slow=0.02)), config=on(disk, UNGUARDED), until="is ready")
    replies: dict[str, Future[Answered]] = {}
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            replies[f"a{number}"] = pool.submit(post, one, f"a{number}", 1000)
        disk.fill(leaving=20_000)
        for number in range(30):
            replies[f"b{number}"] = pool.submit(post, one, f"b{number}", 60_000)
        one.wait_for_log("the journal cannot be written", "full")
        one.wait(lambda: any("cannot be written" in line for line in troubles(one)), "the trouble to show")
        one.wait(lambda: trigger(one)[0] == "degraded", "the trigger to show it too")
        assert post(one, "late").status == 503, "nothing piles up behind a journal that is stuck"
        disk.empty()
        one.wait_for_log("the journal is written again")
        answers = {name: reply.result(PATIENCE_S).status for name, reply in replies.items()}
    assert set(answers.values()) <= {202, 503}, answers
    one.wait(lambda: troubles(one) == [] and trigger(one)[0] == "running", "all to be well")
    assert post(one, "again").status == 202
    promised = {name for name, status in answers.items() if status == 202} | {"again"}
    one.wait(lambda: promised <= {line.strip() for line in noted(notes)}, "all that was answered 202 to run")


def test_a_kill_while_the_disk_is_full_loses_nothing_that_was_answered(
    agent: AgentStarter, bundle: BundleMaker, small_disk: Callable[[int], SmallDisk], tmp_path: Path
) -> None:
    disk, notes = small_disk(24 * MIB), tmp_path / "out" / "notes"
    notes.parent.mkdir()
    folder = bundle("notes", NOTE, web(notes, slow=0.2))
    one = agent(folder, config=on(disk, UNGUARDED), until="is ready")
    promised = set()
    for number in range(1000):  # of 8,000 bytes each: 40,000, the journal's log and its reserve take some hundreds
        if number == 20:
            disk.fill(leaving=40_000)
        reply = post(one, f"e{number}", 1000) if number < 20 else _in_time(one, f"e{number}")
        if reply is None or reply.status != 202:
            break
        promised.add(f"e{number}")
    kill(one)
    assert 20 <= len(promised) < 1000
    two = agent(folder, config=on(disk, UNGUARDED), until="is ready")
    disk.empty()
    two.wait(lambda: promised <= {line.strip() for line in noted(notes)}, "all that was answered 202 to run")
    two.wait(lambda: trigger(two)[0] == "running", "the trigger to run")
    assert post(two, "again").status == 202


def _in_time(agent: Agent, name: str) -> Answered | None:
    """The answer, or None if the event waits for the disk."""
    pool = ThreadPoolExecutor(1)
    reply = pool.submit(post, agent, name, 8000)
    try:
        return reply.result(1.0)
    except NoAnswerYet:  # another one than Python's own before 3.11
        return None
    finally:
        pool.shutdown(wait=False)


def test_an_agent_that_starts_on_a_full_disk_begins_when_there_is_room(
    agent: AgentStarter, bundle: BundleMaker, small_disk: Callable[[int], SmallDisk], tmp_path: Path
) -> None:
    disk, notes = small_disk(16 * MIB), tmp_path / "out" / "notes"
    notes.parent.mkdir()
    disk.fill()
    one = agent(bundle("notes", NOTE, web(notes)), config=on(disk, UNGUARDED), until="is ready")
    one.wait(lambda: trigger(one)[0] in ("failed", "degraded"), "the trigger to say what is wrong")
    assert "make room" in trigger(one)[1]
    disk.empty()
    one.wait(lambda: trigger(one)[0] == "running", "the trigger to run")
    assert post(one, "first").status == 202
    one.wait(lambda: noted(notes) == ["first"], "the first event to run")
    assert one.stop(signal.SIGTERM) == 0


def test_when_a_days_bytes_are_written_the_journal_saves_and_keeps_its_promises(
    agent: AgentStarter, bundle: BundleMaker, tmp_path: Path
) -> None:
    notes = tmp_path / "out" / "notes"
    notes.parent.mkdir()
    config = f'[agent]\nstate = "{tmp_path / "state"}"\n[journal]\nwritten_per_day = "40KiB"\n'
    one = agent(bundle("notes", NOTE, web(notes)), config=config, until="is ready")
    assert {post(one, f"e{number}").status for number in range(10)} == {202}
    (trouble,) = one.wait(lambda: troubles(one), "the spent bytes to show")
    assert "of 40 KiB ([journal] written_per_day) are written today: the journal writes once a second" in trouble
    with ThreadPoolExecutor(8) as pool:
        replies = [pool.submit(post, one, f"late{number}") for number in range(8)]
        assert {reply.result(PATIENCE_S).status for reply in replies} == {202}
    one.wait(lambda: len(noted(notes)) == 18, "every event to run")
    assert one.log.count("raise written_per_day if the disk bears it") == 1


def test_an_agent_whose_disk_is_full_ends_when_it_is_told_to(
    agent: AgentStarter, bundle: BundleMaker, small_disk: Callable[[int], SmallDisk], tmp_path: Path
) -> None:
    disk, notes = small_disk(24 * MIB), tmp_path / "out" / "notes"
    notes.parent.mkdir()
    folder = bundle("notes", NOTE, web(notes, slow=0.2))
    one = agent(folder, config=on(disk, UNGUARDED), until="is ready")
    for number in range(20):
        assert post(one, f"e{number}", 1000).status == 202
    disk.fill()
    for number in range(1000):  # the journal's reserve may take some more
        if _in_time(one, f"late{number}") is None or troubles(one):
            break
    else:
        raise AssertionError("a full disk took all of it")
    assert one.stop(signal.SIGTERM) == 0
    disk.empty()
    two = agent(folder, config=on(disk, UNGUARDED), until="is ready")
    two.wait(lambda: {f"e{number}" for number in range(20)} <= {line.strip() for line in noted(notes)}, "every event to run")
