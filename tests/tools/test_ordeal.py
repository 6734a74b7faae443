"""The fault harness judges rightly: what its ledger makes of hand-written packets, and what a seed makes of a run."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from tools.ordeal import letters, report, verdict, wire
from tools.ordeal.bundles import MANIFESTS
from tools.ordeal.ledger import Ledger, Line
from tools.ordeal.link import Link
from tools.ordeal.messages import BY_NAME, FLOWS, message, named, named_within
from tools.ordeal.schedule import POINT, WEIGHTS, chosen, kinds, plan
from tools.ordeal.verdict import Count, Letters, Result
from tools.ordeal.wire import Cutter, Packet

POINTS = ("journal.applied", "outbox.sent", "dead.written")


def body(flow: str, number: int) -> bytes:
    return f"{flow} {number:07} plain xxx".encode()


def publish(topic: str, number: int, packet_id: int, qos: int = 1, again: bool = False) -> Packet:
    return Packet(wire.PUBLISH, b"", packet_id, 0, topic, body(topic[-1], number), qos, again)


def ack(kind: int, packet_id: int, reason: int = 0) -> Packet:
    return Packet(kind, b"", packet_id, reason)


def connack(present: bool) -> Packet:
    return Packet(wire.CONNACK, session_present=present)


class Told:
    """A ledger and what it wrote."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ledger = Ledger(lambda of, text: self.lines.append(f"{of or '-'} {text}"), lambda: 0.0)

    def line(self, present: bool = True) -> Line:
        one = self.ledger.line("#1")
        one.to_agent(connack(present))
        return one

    def sends(self, line: Line, packet: Packet) -> None:
        """From the agent all the way to the broker."""
        line.from_agent(packet)
        line.to_broker(packet)


@pytest.fixture
def told() -> Told:
    return Told()


# What is taken, what is answered.


def test_a_message_is_taken_once_its_puback_has_left_the_agent(told: Told) -> None:
    line = told.line()
    line.to_agent(publish("in/A", 7, 3))
    assert (told.ledger.offered[("A", 7)], told.ledger.taken[("A", 7)]) == (1, 0)
    line.from_agent(ack(wire.PUBACK, 3))
    assert told.ledger.taken == {("A", 7): 1}


def test_a_puback_counts_for_what_was_offered_on_its_own_connection(told: Told) -> None:
    told.line().to_agent(publish("in/A", 7, 3))
    told.line().from_agent(ack(wire.PUBACK, 3))
    assert not told.ledger.taken
    assert any("nothing that was offered" in line for line in told.lines)


def test_a_puback_that_says_no_takes_nothing(told: Told) -> None:
    line = told.line()
    line.to_agent(publish("in/A", 7, 3))
    line.from_agent(ack(wire.PUBACK, 3, 0x97))
    assert not told.ledger.taken


@pytest.mark.parametrize(("qos", "kind"), [(1, wire.PUBACK), (2, wire.PUBREC)])
def test_an_answer_counts_once_the_broker_s_word_has_passed_to_the_agent(told: Told, qos: int, kind: int) -> None:
    line = told.line()
    told.sends(line, publish("out/C", 7, 9, qos))
    assert not told.ledger.answered
    line.to_agent(ack(kind, 9))
    line.to_agent(ack(kind, 9))
    assert told.ledger.answered == {("out/C", 7): 1}


def test_a_refused_answer_is_none(told: Told) -> None:
    line = told.line()
    told.sends(line, publish("out/C", 7, 9, 2))
    line.to_agent(ack(wire.PUBREC, 9, 0x97))
    assert not told.ledger.answered
    assert told.ledger.refused == {("out/C", 7): 1}


# What is a duplicate.


def test_the_same_packet_id_with_dup_is_the_same_exchange_also_on_the_next_connection(told: Told) -> None:
    told.sends(told.line(), publish("out/C", 7, 9, 2))
    line = told.line(present=True)
    line.to_agent(ack(wire.PUBREC, 9))
    told.sends(line, publish("out/C", 7, 9, 2, again=True))
    line.to_agent(ack(wire.PUBREC, 9))
    assert not told.ledger.again
    assert told.ledger.answered == {("out/C", 7): 1}


@pytest.mark.parametrize("dup", [False, True])
@pytest.mark.parametrize("packet_id", [9, 10])
def test_a_fresh_exchange_after_the_end_of_the_first_is_a_duplicate(told: Told, dup: bool, packet_id: int) -> None:
    line = told.line()
    told.sends(line, publish("out/C", 7, 9, 2))
    for one in (ack(wire.PUBREC, 9), ack(wire.PUBCOMP, 9)):
        line.to_agent(one)
    told.sends(line, publish("out/C", 7, packet_id, 2, again=dup))
    assert told.ledger.again == {("out/C", 7): 1}


def test_another_packet_id_after_pubrec_is_a_duplicate_though_the_exchange_goes_on(told: Told) -> None:
    line = told.line()
    told.sends(line, publish("out/C", 7, 9, 2))
    line.to_agent(ack(wire.PUBREC, 9))
    told.sends(told.line(), publish("out/C", 7, 10, 2))
    assert told.ledger.again == {("out/C", 7): 1}


def test_an_exchange_begun_afresh_before_any_answer_is_no_duplicate(told: Told) -> None:
    told.sends(told.line(), publish("out/A", 7, 9))
    told.sends(told.line(), publish("out/A", 7, 1))
    assert not told.ledger.again


def test_a_broker_that_forgot_the_session_excuses_an_agent_that_did_not_know_of_the_pubrec(told: Told) -> None:
    line = told.line()
    told.sends(line, publish("out/C", 7, 9, 2))
    line.to_agent(ack(wire.PUBREC, 9))
    told.sends(told.line(present=False), publish("out/C", 7, 1, 2))
    assert not told.ledger.again
    assert told.ledger.excused == {("out/C", 7): 1}


def test_it_does_not_excuse_one_that_has_sent_its_pubrel(told: Told) -> None:
    line = told.line()
    told.sends(line, publish("out/C", 7, 9, 2))
    line.to_agent(ack(wire.PUBREC, 9))
    line.from_agent(ack(wire.PUBREL, 9))
    told.sends(told.line(present=False), publish("out/C", 7, 1, 2))
    assert told.ledger.again == {("out/C", 7): 1}


def test_a_packet_id_in_use_for_another_answer_is_a_clash(told: Told) -> None:
    line = told.line()
    told.sends(line, publish("out/C", 7, 9, 2))
    told.sends(told.line(), publish("out/C", 8, 9, 2))
    assert len(told.ledger.clashes) == 1
    assert any("still in use" in line for line in told.lines)


def test_a_packet_id_whose_publish_never_reached_the_broker_is_free(told: Told) -> None:
    told.line().from_agent(publish("out/C", 7, 9, 2))
    told.sends(told.line(), publish("out/C", 8, 9, 2))
    assert not told.ledger.clashes


def test_a_packet_id_is_free_again_after_pubcomp_and_after_a_lost_session(told: Told) -> None:
    line = told.line()
    told.sends(line, publish("out/C", 7, 9, 2))
    line.to_agent(ack(wire.PUBREC, 9))
    line.to_agent(ack(wire.PUBCOMP, 9))
    told.sends(line, publish("out/C", 8, 9, 2))
    told.sends(told.line(present=False), publish("out/C", 9, 9, 2))
    assert not told.ledger.clashes


# What is a broken promise.


def count_of(told: Told, flow: str, sent: set[int] | None = None, heard: Counter[tuple[str, int]] | None = None) -> Count:
    counts = verdict.count(told.ledger, {flow: sent or set()}, heard or Counter())
    return next(count for count in counts if count.flow.name == flow)


def take(line: Line, flow: str, number: int, packet_id: int = 1) -> None:
    line.to_agent(publish(f"in/{flow}", number, packet_id))
    line.from_agent(ack(wire.PUBACK, packet_id))


def answer(told: Told, line: Line, topic: str, number: int, packet_id: int = 1) -> None:
    told.sends(line, publish(topic, number, packet_id))
    line.to_agent(ack(wire.PUBACK, packet_id))


def test_taken_and_never_answered_is_lost(told: Told) -> None:
    line = told.line()
    take(line, "A", 1)
    take(line, "A", 2)
    answer(told, line, "out/A", 1)
    found = count_of(told, "A", {1, 2, 3})
    assert (found.sent, found.taken, found.answered, found.lost, found.by_broker) == (3, 2, 1, [2], [3])
    assert found.broken == [("lost", [2])]
    assert verdict.unanswered(told.ledger, set()) == 1
    assert verdict.unanswered(told.ledger, {("A", 2)}) == 0


def test_b_is_answered_only_when_both_its_answers_are(told: Told) -> None:
    line = told.line()
    take(line, "B", 1)
    answer(told, line, "out/B", 1)
    assert count_of(told, "B").lost == [1]
    answer(told, line, "side/B", 1)
    assert count_of(told, "B").broken == []


def test_offered_and_never_taken_is_broken_too(told: Told) -> None:
    told.line().to_agent(publish("in/A", 5, 1))
    assert told.ledger.untaken() == {("A", 5)}
    assert count_of(told, "A", {5}).broken == [("never taken, though the agent had it", [5])]


def test_what_the_broker_does_not_offer_again_on_the_next_connection_it_has_lost(told: Told) -> None:
    told.line().to_agent(publish("in/A", 5, 1))
    told.line().to_agent(publish("in/A", 6, 2))
    found = count_of(told, "A", {5, 6})
    assert (found.stuck, found.by_broker) == ([6], [5])


@pytest.mark.parametrize(("flow", "broken"), [("A", []), ("C", [("duplicated", [1])])])
def test_a_duplicate_breaks_only_the_promise_of_exactly_once(
    told: Told, flow: str, broken: list[tuple[str, list[int]]]
) -> None:
    line = told.line()
    take(line, flow, 1)
    answer(told, line, f"out/{flow}", 1)
    answer(told, line, f"out/{flow}", 1)
    found = count_of(told, flow, {1}, Counter({(f"out/{flow}", 1): 2}))
    assert (found.duplicated, found.copies, found.broken) == ([1], 1, broken)


def test_answers_in_order_are_in_the_order_in_which_their_messages_first_came() -> None:
    assert verdict.disordered([1, 2, 3, 4], [1, 2, 4, 3]) == [3]
    assert verdict.disordered([1, 3, 2], [1, 3, 2]) == [], "a broker that brings 3 before 2 is not the agent's fault"
    assert verdict.disordered([1, 2, 3], [2, 9, 3]) == [], "what was never offered has no place"


def test_dead_letters_have_to_be_exactly_the_doomed() -> None:
    assert verdict.letters_broken(Letters({1, 2}, {1, 2, 5})) == []
    assert verdict.letters_broken(Letters({1, 2}, {1, 5})) == [("failed for good and not among the dead letters", [2])]
    assert verdict.letters_broken(Letters({1}, {1, 3, 5}, {3})) == [("among the dead letters and not doomed", [3])]
    assert len(verdict.letters_broken(Letters({1}, {1}, left={1}))) == 1
    assert verdict.letters_broken(Letters({1}, unchecked="no agent")) == []


# What is planned and sent.


def test_the_plan_is_a_function_of_the_seed_and_longer_runs_begin_alike() -> None:
    assert plan(3, 2, POINTS) == plan(3, 2, POINTS) != plan(4, 2, POINTS)
    short = [(fault.at_s, fault.kind) for fault in plan(3, 2, POINTS)]
    assert [(fault.at_s, fault.kind) for fault in plan(3, 4, POINTS)][: len(short)] == short


def test_ten_minutes_have_two_hundred_faults_of_every_kind_and_an_outage_of_minutes() -> None:
    faults = plan(1, 10, POINTS)
    assert len(faults) >= 250
    assert {fault.kind for fault in faults} == set(kinds(POINTS))
    outages = [fault.hold_s for fault in faults if fault.kind == "outage"]
    assert max(outages) >= 120
    assert sorted(outages)[-2] <= 60
    assert all(1 <= fault.amount <= 12 for fault in faults if fault.point)


def test_a_short_run_has_short_outages() -> None:
    assert max((fault.hold_s for fault in plan(1, 1, POINTS) if fault.kind == "outage"), default=0) <= 6


@pytest.mark.parametrize(
    ("only", "found"),
    [
        ("clock", ["clock"]),
        ("point", [f"{POINT}{point}" for point in POINTS]),
        ("outbox.sent", [f"{POINT}outbox.sent"]),
        (f"{POINT}outbox.sent", [f"{POINT}outbox.sent"]),
        ("", [*WEIGHTS, *(f"{POINT}{point}" for point in POINTS)]),
    ],
)
def test_only_names_one_fault_or_all_points(only: str, found: list[str]) -> None:
    assert chosen(only, POINTS) == found
    assert {fault.kind for fault in plan(1, 5, POINTS, only)} == set(found)


def test_only_refuses_what_is_no_fault() -> None:
    with pytest.raises(ValueError, match="'flood' is no fault"):
        chosen("flood", POINTS)


def test_a_message_is_a_function_of_seed_flow_and_number_and_says_which_it_is() -> None:
    flow = BY_NAME["E"]
    many = [message(1, flow, number) for number in range(400)]
    assert many == [message(1, flow, number) for number in range(400)]
    assert {one.fate for one in many} == {"plain", "once", "doomed"}
    assert named(many[42].body) == ("E", 42)
    assert named_within(b"\x99junk" + many[42].body) == ("E", 42)
    assert named(b"something else") is None


def test_each_flow_has_its_function() -> None:
    assert set(MANIFESTS) == {flow.name for flow in FLOWS}


# What is read off the line, off the disk, and told.


def test_packets_are_cut_wherever_the_bytes_are() -> None:
    whole = b"\x20\x03\x01\x00\x00" + b"\x3c\x0e\x00\x05out/C\x00\x09\x00C 12" + b"\x50\x03\x00\x09\x97" + b"\x62\x02\x00\x09"
    for step in range(1, len(whole)):
        cutter = Cutter()
        packets = [one for start in range(0, len(whole), step) for one in cutter.feed(whole[start : start + step])]
        assert [one.kind for one in packets] == [wire.CONNACK, wire.PUBLISH, wire.PUBREC, wire.PUBREL]
        assert b"".join(one.raw for one in packets) == whole
    connack, publish, refusal, release = packets
    assert connack.session_present
    assert (publish.topic, publish.packet_id, publish.qos, publish.repeated) == ("out/C", 9, 2, True)
    assert publish.payload == b"C 12"
    assert (refusal.packet_id, refusal.reason) == (9, 0x97)
    assert str(release) == "PUBREL 9"


async def test_the_link_passes_packets_on_and_cuts_within_one() -> None:
    told = Told()
    came: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set_result(await reader.readexactly(2))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(broker, "127.0.0.1", 0)
    link = Link(told.ledger, server.sockets[0].getsockname()[1])
    await link.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"\xc0\x00")
        assert await came == b"\xc0\x00"
        link.cut_next = True
        writer.write(b"\x40\x02\x00\x09")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        assert link.cuts == 1
        assert link.failures == []
        writer.close()
    finally:
        link.close()
        server.close()


def test_dead_letters_are_read_by_their_numbers(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "journal.db") as connection:
        connection.execute("CREATE TABLE dead (function, body)")
        connection.execute("CREATE TABLE events (place)")
        connection.execute("CREATE TABLE outbox (place)")
        connection.execute("INSERT INTO dead VALUES ('flow-e', ?)", (b"\x9b\xc4" + body("E", 5),))
        connection.execute("INSERT INTO outbox VALUES (1)")
    connection.close()
    assert letters.in_journal(tmp_path, "flow-e") == {5}
    assert letters.left_over(tmp_path) == "1 rows in outbox"


def result_of(told: Told, **more: object) -> Result:
    counts = verdict.count(told.ledger, {}, Counter())
    return Result(1, 60.0, {"cut": 2}, ["dead.replayed"], {}, counts, Letters(), 0.5, {}, **more)  # type: ignore[arg-type]


def test_the_report_names_what_is_broken_and_shows_its_history(told: Told, tmp_path: Path) -> None:
    take(told.line(), "A", 3)
    result = result_of(told, troubles=["the agent ended by itself"])
    assert report.broken(result) == ["A (at least once): 1 lost: 3", "the agent ended by itself"]
    assert report.culprits(result) == ["A-3"]
    log = tmp_path / "history.log"
    log.write_text("".join(f"    0.{index:03} {line}\n" for index, line in enumerate([*told.lines, "A-33 of another"])))
    lines = report.history(log, "A-3")
    assert any("PUBACK 1" in line for line in lines)
    assert not any("A-33" in line for line in lines)
    table = report.as_table(result)
    assert "not reached: dead.replayed" in table
    assert report.as_json(result).count("\n") == 0


def test_a_run_that_kept_everything_has_nothing_broken(told: Told) -> None:
    assert report.broken(result_of(told)) == []
