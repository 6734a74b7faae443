"""What the packets between agent and broker prove, message by message. Pure: fed by the link, or by hand.

    offered     the broker's PUBLISH has passed to the agent
    taken       the agent's PUBACK for it has left the agent (over HTTP: its 202 has come); now it must not be lost
    begun       the agent's PUBLISH of its answer has left the agent
    answered    the broker's PUBACK, or at QoS 2 its PUBREC, for that has passed to the agent
    again       an exchange begun afresh for an answer that had been answered before: a duplicate of the agent's making
    excused     the same, but the broker had forgotten the session before the agent was seen to know of its PUBREC
    clash       a QoS 2 packet identifier used for something else while its exchange went on: [MQTT-2.2.1-3] forbids it

An answer sent again with DUP and its packet identifier, in the same session, is the same exchange. Knows topics `in/FLOW` and
all others as answers; must not know what a fault is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tools.ordeal import wire
from tools.ordeal.messages import named
from tools.ordeal.wire import Packet

IN = "in/"
Incoming = tuple[str, int]
"""Flow and number."""
Answer = tuple[str, int]
"""Topic and number: a message may have more than one answer, each on a topic of its own."""
Write = Callable[[str, str], None]
"""Of what message (`C-42`, or "" for the line as a whole), and what happened."""


class Exchange:
    """One answer on its way to the broker, under one packet identifier."""

    __slots__ = ("answer", "forwarded", "known", "orphaned", "qos", "received")

    def __init__(self, answer: Answer, qos: int) -> None:
        self.answer = answer
        self.qos = qos
        self.forwarded = False
        """The broker may have seen it."""
        self.received = False
        """PUBACK or PUBREC has passed to the agent."""
        self.known = False
        """PUBREL has left the agent: it has read the PUBREC."""
        self.orphaned = False
        """The broker has forgotten the session it was part of."""


class Ledger:
    """One run's. `write` keeps the history; `now` is a clock in seconds."""

    def __init__(self, write: Write, now: Callable[[], float]) -> None:
        self.offered: Counter[Incoming] = Counter()
        self.taken: Counter[Incoming] = Counter()
        """Keeps the order in which messages were first taken."""
        self.begun: Counter[Answer] = Counter()
        """Likewise, of the answers first begun."""
        self.answered: Counter[Answer] = Counter()
        self.again: Counter[Answer] = Counter()
        self.excused: Counter[Answer] = Counter()
        self.clashes: list[str] = []
        self.refused: Counter[Answer] = Counter()
        self.progress = 0
        """Rises with whatever is taken or answered."""
        self.answered_at = now()
        self._write = write
        self._now = now
        self.asked: set[Incoming] = set()
        """Offered by somebody who will not let go of it: over HTTP."""
        self._line: Line | None = None
        self._open: dict[int, Exchange] = {}
        """By packet identifier: the exchanges of the broker's present session with the agent."""
        self._last: dict[Answer, Exchange] = {}
        """The exchange of each answer that was received last."""

    def line(self, name: str) -> Line:
        """A new connection of the agent's."""
        self._line = Line(self, name)
        return self._line

    def untaken(self) -> set[Incoming]:
        """What the broker has offered on the newest connection and the agent has never taken. What it offered only before that
        it would have offered again, had it not lost it."""
        offers = self._line.offers.values() if self._line is not None else ()
        return {message for message in (*offers, *self.asked) if message not in self.taken}

    def take(self, message: Incoming) -> None:
        """The agent has said that it has the message."""
        self.taken[message] += 1
        self.progress += 1

    def note(self, of: str, text: str) -> None:
        """Put a line into the history."""
        self._write(of, text)

    def session_lost(self) -> None:
        """The broker knows of no exchange any more."""
        for exchange in self._open.values():
            exchange.orphaned = True
        self._open.clear()

    def begin(self, packet: Packet, name: str) -> None:
        """The agent's PUBLISH."""
        found = named(packet.payload)
        if found is None or packet.topic.startswith(IN):
            return
        answer = (packet.topic, found[1])
        self.note(_id(found), f"{name} agent > {packet} {packet.topic}")
        if not packet.qos:
            return
        current = self._open.get(packet.packet_id)
        if packet.repeated and current is not None and current.answer == answer:
            return
        if current is not None and current.qos == 2 and current.forwarded:
            self.clashes.append(f"packet id {packet.packet_id} of {current.answer} for {answer}")
            self.note(_id(found), f"{name} !! its packet id is still in use for {current.answer}")
        self.begun[answer] += 1
        before = self._last.get(answer)
        if before is not None:
            excused = before.qos == 2 and before.orphaned and not before.known
            (self.excused if excused else self.again)[answer] += 1
            self.note(_id(found), f"{name} !! {'excused: ' if excused else ''}an exchange begun afresh after it was answered")
        self._open[packet.packet_id] = Exchange(answer, packet.qos)

    def forwarded(self, packet: Packet) -> None:
        """The agent's PUBLISH has been passed to the broker."""
        exchange = self._open.get(packet.packet_id)
        if exchange is not None and packet.qos:
            exchange.forwarded = True

    def released(self, packet: Packet, name: str) -> None:
        """The agent's PUBREL."""
        exchange = self._open.get(packet.packet_id)
        if exchange is not None:
            exchange.known = True
            self.note(_of(exchange.answer), f"{name} agent > {packet}")

    def acknowledged(self, packet: Packet, name: str) -> None:
        """The broker's PUBACK, PUBREC or PUBCOMP has passed to the agent."""
        exchange = self._open.get(packet.packet_id)
        if exchange is None:
            return
        self.note(_of(exchange.answer), f"{name} broker > {packet}")
        if packet.kind == wire.PUBCOMP or packet.kind == wire.PUBACK or packet.reason >= wire.REFUSED:
            del self._open[packet.packet_id]
        if packet.kind == wire.PUBCOMP:
            return
        if packet.reason >= wire.REFUSED:
            self.refused[exchange.answer] += 1
            return
        if not exchange.received:
            exchange.received = True
            self._last[exchange.answer] = exchange
            self.answered[exchange.answer] += 1
            self.progress += 1
        self.answered_at = self._now()


class Line:
    """One connection between agent and broker."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._name = name
        self.offers: dict[int, Incoming] = {}
        """By packet identifier: what has no PUBACK on this connection."""

    def from_agent(self, packet: Packet) -> None:
        """It has left the agent, whatever becomes of it."""
        if packet.kind == wire.PUBLISH:
            self._ledger.begin(packet, self._name)
        elif packet.kind == wire.PUBREL:
            self._ledger.released(packet, self._name)
        elif packet.kind == wire.PUBACK:
            message = self.offers.pop(packet.packet_id, None)
            if message is None:
                self._ledger.note("", f"{self._name} agent > {packet}, for nothing that was offered on this connection")
                return
            self._ledger.note(_id(message), f"{self._name} agent > {packet}")
            if packet.reason < wire.REFUSED:
                self._ledger.take(message)
        elif packet.kind in (wire.CONNECT, wire.DISCONNECT):
            self._ledger.note("", f"{self._name} agent > {packet}")

    def to_broker(self, packet: Packet) -> None:
        """It has been passed on to the broker."""
        if packet.kind == wire.PUBLISH:
            self._ledger.forwarded(packet)

    def to_agent(self, packet: Packet) -> None:
        """It has been passed on to the agent."""
        if packet.kind == wire.PUBLISH:
            found = named(packet.payload)
            if found is not None and packet.topic.startswith(IN):
                self.offers[packet.packet_id] = found
                self._ledger.offered[found] += 1
                self._ledger.note(_id(found), f"{self._name} broker > {packet}")
        elif packet.kind in (wire.PUBACK, wire.PUBREC, wire.PUBCOMP):
            self._ledger.acknowledged(packet, self._name)
        elif packet.kind in (wire.CONNACK, wire.DISCONNECT):
            self._ledger.note("", f"{self._name} broker > {packet}")
            if packet.kind == wire.CONNACK and not packet.session_present and not packet.reason:
                self._ledger.session_lost()


def _id(message: Incoming) -> str:
    return f"{message[0]}-{message[1]}"


def _of(answer: Answer) -> str:
    return f"{answer[0][-1]}-{answer[1]}"
