"""Which promises were kept: the ledger's counts of each flow, and what of them is a broken promise. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tools.ordeal.ledger import Answer, Incoming, Ledger
from tools.ordeal.messages import FLOWS, Flow, streams

SHOWN = 8
"""Numbers that one line of a broken promise names."""


@dataclass
class Letters:
    """What became of the doomed messages. `checked` is why not, where it could not be found out."""

    expected: set[int] = field(default_factory=set)
    """Doomed, taken, and not answered when the table was read."""
    found: set[int] = field(default_factory=set)
    """In the table."""
    strange: set[int] = field(default_factory=set)
    """In the table, and not doomed. One that is doomed may be there before it counts as taken, or once more if it came twice."""
    left: set[int] = field(default_factory=set)
    """In the table after all of it had been replayed."""
    replayed: int = 0
    unchecked: str = ""


@dataclass
class Count:
    """One flow's row. `lost`, `stuck` and `by_broker` are numbers of messages, the others count."""

    flow: Flow
    sent: int
    taken: int
    answered: int
    lost: list[int]
    """Taken, and not answered on each topic that it should be."""
    stuck: list[int]
    """Offered to the agent for as long as it liked, and never taken."""
    duplicated: list[int]
    disordered: list[int]
    excused: int
    by_broker: list[int]
    """Acknowledged to the sender, and never offered to the agent, or not again after the agent could not take it."""
    copies: int
    """What came twice to a subscriber at the far end, whoever is to blame."""

    @property
    def broken(self) -> list[tuple[str, list[int]]]:
        """Each broken promise and the numbers it concerns."""
        flow = self.flow
        found = [("lost", self.lost), ("never taken, though the agent had it", self.stuck)]
        if flow.exactly:
            found.append(("duplicated", self.duplicated))
        if flow.ordered:
            found.append(("out of order", self.disordered))
        return [(what, numbers) for what, numbers in found if numbers]


@dataclass
class Result:
    """What a run has found."""

    seed: int
    seconds: float
    faults: dict[str, int]
    unreached: list[str]
    """Fault points that the agent never came to."""
    skipped: dict[str, str]
    counts: list[Count]
    letters: Letters
    longest_stall_s: float
    refusals: dict[str, int]
    """By status line: HTTP requests without a 202."""
    refused: int = 0
    """Answers that the broker said no to; they are sent again."""
    troubles: list[str] = field(default_factory=list)
    """What else broke: an agent that ended by itself, rows left behind, packet identifiers used twice."""


def count(ledger: Ledger, sent: Mapping[str, set[int]], heard: Counter[Answer]) -> list[Count]:
    """A row for each flow. `sent`: what each flow's sender was told has arrived; `heard`: copies at the far end."""
    return [_count(flow, ledger, sent.get(flow.name, set()), heard) for flow in FLOWS]


def _count(flow: Flow, ledger: Ledger, sent: set[int], heard: Counter[Answer]) -> Count:
    taken = [number for name, number in ledger.taken if name == flow.name]
    stuck = {number for name, number in ledger.untaken() if name == flow.name}
    topics = streams(flow.name)
    answered = [number for number in taken if all((topic, number) in ledger.answered for topic in topics)]
    missing = set(taken).difference(answered)
    return Count(
        flow=flow,
        sent=len(sent),
        taken=len(taken),
        answered=len(answered),
        lost=sorted(missing),
        stuck=sorted(stuck),
        duplicated=sorted(number for topic, number in ledger.again if topic in topics),
        disordered=_disordered(flow, ledger) if flow.ordered else [],
        excused=sum(times for (topic, _), times in ledger.excused.items() if topic in topics),
        by_broker=[] if flow.web else sorted(sent.difference(taken) - stuck),
        copies=sum(times - 1 for (topic, _), times in heard.items() if topic in topics and times > 1),
    )


def _disordered(flow: Flow, ledger: Ledger) -> list[int]:
    offered = [number for name, number in ledger.offered if name == flow.name]
    return disordered(offered, [number for topic, number in ledger.begun if topic == streams(flow.name)[0]])


def disordered(offered: Sequence[int], begun: Iterable[int]) -> list[int]:
    """Of answers in the order in which they were first begun: those behind one whose message was first offered later."""
    place = {number: index for index, number in enumerate(offered)}
    late: list[int] = []
    furthest = -1
    for number in begun:
        at = place.get(number)
        if at is None:
            continue
        if at < furthest:
            late.append(number)
        furthest = max(furthest, at)
    return late


def unanswered(ledger: Ledger, doomed: set[Incoming]) -> int:
    """How many answers are owed for what was taken, the doomed left out."""
    return sum(
        (topic, number) not in ledger.answered
        for flow, number in ledger.taken
        if (flow, number) not in doomed
        for topic in streams(flow)
    )


def letters_broken(letters: Letters) -> list[tuple[str, list[int]]]:
    """What is wrong with the dead letters."""
    if letters.unchecked:
        return []
    found = [
        ("failed for good and not among the dead letters", sorted(letters.expected - letters.found)),
        ("among the dead letters and not doomed", sorted(letters.strange)),
        ("still among the dead letters after all were replayed", sorted(letters.left)),
    ]
    return [(what, numbers) for what, numbers in found if numbers]


def shown(numbers: Sequence[int]) -> str:
    """The first of them, for a line."""
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return ", ".join(map(str, numbers[:SHOWN])) + more
