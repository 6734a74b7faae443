"""What is sent: each message is a pure function of seed, flow and number, and says in its first words which one it is.

    FLOW NUMBER FATE padding        `C 0000042 once xxxxxxxx`

Knows no broker and no function; the handlers of bundles.py read the same words.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Fate = Literal["plain", "once", "doomed"]
"""What the handler does with it: answer; raise the first time it sees it; raise until it is told that all is well again."""

_HEAD = re.compile(rb"([A-Z]) (\d{7}) (plain|once|doomed) ")


@dataclass(frozen=True)
class Flow:
    """One way through the agent, and what is promised of it."""

    name: str
    promise: str
    per_s: float
    qos_out: int
    once: float = 0.03
    """The share of messages that fail at first."""
    doomed: float = 0.0
    again: float = 0.0
    """The share that their sender sends a second time, under the same id."""
    exactly: bool = False
    ordered: bool = False
    web: bool = False


FLOWS = (
    Flow("A", "at least once", 25.0, 1),
    Flow("B", "at least once, durable", 25.0, 1),
    Flow("C", "effectively once", 25.0, 2, again=0.08, exactly=True),
    Flow("D", "effectively once, HTTP", 12.0, 2, again=0.1, exactly=True, web=True),
    Flow("E", "dead letters", 12.0, 1, doomed=0.15),
    Flow("F", "in order", 10.0, 1, once=0.0, ordered=True),
)
BY_NAME = {flow.name: flow for flow in FLOWS}
BESIDE = "side/B"
"""Where the handler of B publishes beside its answer."""


def streams(flow: str) -> tuple[str, ...]:
    """The topics on which each message of a flow has to come out."""
    return (f"out/{flow}", BESIDE) if flow == "B" else (f"out/{flow}",)


@dataclass(frozen=True)
class Message:
    """One message as it is sent."""

    flow: str
    number: int
    fate: Fate
    again_after_s: float
    """How much later it is sent a second time; 0: it is not."""
    body: bytes

    @property
    def id(self) -> str:
        """What it is known by, however often it is sent."""
        return f"{self.flow}-{self.number}"


@lru_cache(maxsize=4096)
def message(seed: int, flow: Flow, number: int) -> Message:
    """Message `number` of a flow."""
    dice = random.Random(f"{seed} {flow.name} {number}")
    fate: Fate = "plain"
    roll = dice.random()
    if roll < flow.doomed:
        fate = "doomed"
    elif roll < flow.doomed + flow.once:
        fate = "once"
    again_after_s = dice.uniform(0.1, 8.0) if dice.random() < flow.again else 0.0
    size = dice.choice((20, 60, 200, 1200))
    padding = bytes(dice.choices(b"abcdefghijklmnopqrstuvwxyz", k=8)) * (size // 8)
    return Message(flow.name, number, fate, again_after_s, f"{flow.name} {number:07} {fate} ".encode() + padding)


def named(body: bytes) -> tuple[str, int] | None:
    """Flow and number of the message with this body; None if it is none of ours."""
    found = _HEAD.match(body)
    return (found[1].decode(), int(found[2])) if found else None


def named_within(data: bytes) -> tuple[str, int] | None:
    """The same for a message somewhere inside `data`, as in a row of the journal."""
    found = _HEAD.search(data)
    return (found[1].decode(), int(found[2])) if found else None
