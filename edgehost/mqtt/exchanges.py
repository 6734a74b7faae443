"""Both directions of a PUBLISH exchange, as values and tables: what is owed, what to send next. Pure; it never touches a socket.

Outgoing (`Sender`), one row per message in flight:

    state        event                    next            sent
    waiting      room in the window       published       PUBLISH
    published    PUBACK        (QoS 1)    done
    published    PUBREC        (QoS 2)    released        PUBREL
    released     PUBCOMP       (QoS 2)    done
    published    connection came back     published       PUBLISH again, DUP set, same packet id (MQTT 5, 4.4)
    released     connection came back     released        PUBREL again
    published    the session was lost     waiting         (a new PUBLISH, in front of all others)
    released     the session was lost     done            (the broker had taken it)

With a slip (edgehost/parcel.py) the packet id is the slip's number, and a QoS 2 exchange outlives the process:

    -            publish, released        released        PUBREL (done, if the broker has forgotten the session)
    -            publish, begun           published       PUBLISH, DUP set, in its turn
    published    PUBREC                   taken           nothing, until that is written down
    taken        it is written down       released        PUBREL
    taken        PUBREC                   taken
    taken        connection came back     taken
    taken        the session was lost     done
    waiting      recalled                 -               (its caller has it again; published too, if so asked)

Incoming (`Receiver`), one row per packet id of QoS 1 or 2. The acknowledgement leaves after the answer, for QoS 2 too: it is the
PUBREC, which is where the broker lets go of the message.

    state        event                    next            sent
    -            PUBLISH                  working         (handed over)
    working      PUBLISH with DUP         working         (not handed over again)
    working      answered, QoS 1          -               PUBACK
    working      answered, QoS 2          answered        PUBREC
    working      answered while away      answered        (nothing to send it on)
    working      given back               -               (the broker sends it again on the next connection)
    answered     PUBLISH with DUP         as above        PUBACK or PUBREC
    answered     PUBREL                   -               PUBCOMP
    answered     one before it is not     answered        (it waits in line: acknowledgements keep the order of arrival)
    any          the session was lost     -
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterator

from edgehost.errors import AwayError
from edgehost.mqtt.packets import (
    FAILURE,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Message,
    encode_acknowledgement,
    encode_publish,
)
from edgehost.parcel import NUMBERS, Slip


class PacketIds:
    """The one set of packet identifiers of a session: PUBLISH, SUBSCRIBE and UNSUBSCRIBE share it (MQTT 5, 2.2.1).

    Those above are the numbers of slips: an exchange that an earlier run has left open keeps its own without being known here.
    """

    MOST = NUMBERS.start - 1

    def __init__(self, after: int = 0) -> None:
        """The first is the one after `after`: another one for each run, or it would be that of an open exchange of the last."""
        self._last = after
        self._used: set[int] = set()

    def take(self) -> int:
        """An identifier that nobody uses. RuntimeError when all of them are taken."""
        if len(self._used) == self.MOST:
            raise RuntimeError(f"all {self.MOST} packet identifiers are in use")
        packet_id = self._last
        while True:
            packet_id = packet_id % self.MOST + 1
            if packet_id not in self._used:
                self._last = packet_id
                self._used.add(packet_id)
                return packet_id

    def free(self, packet_id: int) -> None:
        """Its exchange is over."""
        self._used.discard(packet_id)


class Outgoing:
    """One message on its way out. `future` gets None when it is sent (QoS 0) or acknowledged (QoS 1 and 2)."""

    __slots__ = (
        *("duplicate", "future", "packet_id", "payload", "properties", "qos"),
        *("released", "retain", "slip", "taken", "topic_field"),
    )

    def __init__(
        self,
        topic_field: bytes,
        payload: bytes,
        properties: bytes,
        qos: int,
        retain: bool,
        future: asyncio.Future[None],
        slip: Slip | None = None,
    ) -> None:
        self.topic_field = topic_field
        self.payload = payload
        self.properties = properties
        self.qos = qos
        self.retain = retain
        self.future = future
        self.slip = slip
        self.packet_id = slip.number if slip is not None else 0
        self.duplicate = slip is not None and slip.begun
        """Its first PUBLISH is a repetition: an earlier run, or connection, may have sent one."""
        self.taken = self.released = slip is not None and slip.released

    def packet(self, duplicate: bool = False) -> bytes:
        """What opens its exchange, or goes on with it."""
        if self.released:
            return encode_acknowledgement(PUBREL, self.packet_id)
        return encode_publish(
            self.topic_field, self.payload, self.properties, self.qos, self.retain, self.packet_id, duplicate or self.duplicate
        )

    def settle(self, error: Exception | None = None) -> None:
        """End it; whoever gave up waiting for it is no trouble."""
        if not self.future.done():
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)


class Sender:
    """Messages on their way out: those that wait, and those in flight, in the order in which they were sent."""

    def __init__(self, ids: PacketIds, most: int) -> None:
        self._ids = ids
        self._most = most
        self.window = 1
        """How many QoS 1 and 2 messages the broker takes at once: its Receive Maximum."""
        self.owed = 0
        """Exchanges that an earlier run has left open and that are still to be gone on with: the broker counts them too."""
        self.waiting: deque[Outgoing] = deque()
        self.in_flight: dict[int, Outgoing] = {}
        self._again: deque[Outgoing] = deque()
        """Those in flight that have not been repeated on this connection: the window holds for them as well."""

    @property
    def under_way(self) -> int:
        """How many the broker has to answer on this connection."""
        return len(self.in_flight) - len(self._again)

    @property
    def more(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self.waiting or self._again)

    @property
    def full(self) -> bool:
        """True when one more message would be over the limit of what may be held in memory."""
        return len(self.waiting) + len(self.in_flight) >= self._most

    def begin(self, message: Outgoing) -> bytes:
        """The first packet of a message that need not wait. The caller has checked `window`."""
        if message.qos:
            message.packet_id = message.slip.number if message.slip is not None else self._ids.take()
            self.in_flight[message.packet_id] = message
            if message.slip is not None and message.slip.begun:
                self.owed = max(0, self.owed - 1)
        packet = message.packet()
        if not message.qos:
            message.settle()
        return packet

    def next(self) -> bytes | None:
        """The packet of the first waiting message, or None if none waits or the window is full; strictly in order, but that
        nothing new takes the place of an exchange that an earlier run, or connection, has left open."""
        while self._again:
            if self.under_way >= self.window:
                return None
            message = self._again.popleft()
            if self.in_flight.get(message.packet_id) is message:
                return message.packet(duplicate=True)
        if not self.waiting:
            return None
        if self.owed and (begun := next((each for each in self.waiting if each.slip is not None and each.slip.begun), None)):
            self.waiting.remove(begun)
            return self.begin(begun)
        if self.waiting[0].qos and len(self.in_flight) + self.owed >= self.window:
            return None
        return self.begin(self.waiting.popleft())

    def taken(self, packet_id: int) -> Outgoing | None:
        """The broker said PUBREC: the message of which that has to be written down first. None: `acknowledged` goes on."""
        message = self.in_flight.get(packet_id)
        if message is None or message.slip is None or message.taken:
            return None
        message.taken = True
        return message

    def release(self, message: Outgoing) -> bytes:
        """It is written down that the broker has it: the PUBREL; b"" if its exchange is over meanwhile."""
        if self.in_flight.get(message.packet_id) is not message:
            return b""
        message.released = True
        return message.packet()

    def acknowledged(self, kind: int, packet_id: int, reason: int) -> tuple[bytes, Outgoing | None]:
        """The broker said PUBACK, PUBREC or PUBCOMP: what to send back (or b""), and the message if that ends it."""
        message = self.in_flight.get(packet_id)
        if message is None:
            # A PUBREC for nothing we know is still owed its PUBREL, or the broker keeps asking.
            return (encode_acknowledgement(PUBREL, packet_id) if kind == PUBREC else b""), None
        if kind == PUBREC and reason < FAILURE:
            message.released = message.released or message.slip is None
            return (message.packet() if message.released else b""), None
        if kind != (PUBCOMP if message.released else PUBACK) and not (kind == PUBREC and reason >= FAILURE):
            return b"", None
        del self.in_flight[packet_id]
        self._ids.free(packet_id)
        return b"", message

    def resume(self) -> Iterator[bytes]:
        """A connection to the same session: every unfinished exchange again, in its order (MQTT 5, 4.4 and 4.6).

        What the broker has already comes first: only then it has room for the rest, which `next` gives as far as the window
        allows.
        """
        self._again = deque(each for each in self.in_flight.values() if not each.released and not each.taken)
        for message in self.in_flight.values():
            if message.released:
                yield message.packet(duplicate=True)

    def restart(self) -> None:
        """The broker has forgotten the session: what it had not taken begins anew, in front of what waits."""
        self.owed = 0
        self._again.clear()
        for packet_id in self.in_flight:
            self._ids.free(packet_id)
        anew: deque[Outgoing] = deque()
        for message in (*self.in_flight.values(), *self.waiting):
            if message.released or message.taken:
                message.settle()
            else:
                message.duplicate = False
                anew.append(message)
        self.waiting = anew
        self.in_flight.clear()

    def recall(self, waits: Collection[asyncio.Future[None]], begun: bool, error: AwayError) -> None:
        """Give those messages back to their callers that have one of these futures and were not sent; if `begun`, those too that
        were sent and not taken."""
        kept = [message for message in self.waiting if message.future not in waits]
        back = [message for message in self.waiting if message.future in waits] if len(kept) < len(self.waiting) else []
        self.waiting = deque(kept)
        if begun:
            sent = [each for each in self.in_flight.values() if not each.taken and not each.released and each.future in waits]
            self._again = deque(each for each in self._again if each not in sent)
            for message in sent:
                del self.in_flight[message.packet_id]
                self._ids.free(message.packet_id)
            back = sent + back
        for message in back:
            message.settle(error)

    def fail(self, error: Exception) -> None:
        """End everything that waits or is in flight with `error`."""
        for message in (*self.in_flight.values(), *self.waiting):
            message.settle(error)
        self._again.clear()
        self.in_flight.clear()
        self.waiting.clear()


class _Incoming:
    """A row of the Receiver: the message that was handed over, how many of its takers have not answered yet, and its place."""

    __slots__ = ("in_line", "message", "owed")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.owed = 1
        self.in_line = True


class Receiver:
    """Messages of QoS 1 and 2 that came in and whose exchange is not over.

    Acknowledgements leave in the order in which the messages came on this connection (MQTT 5, 4.6), so an answer waits in line
    for those before it. A broker may close the connection of a client that does otherwise, and rumqttd does.
    """

    def __init__(self) -> None:
        self._rows: dict[int, _Incoming] = {}
        self._line: deque[_Incoming] = deque()

    def accept(self, message: Message) -> tuple[bool, bytes]:
        """Is this message to be handed over, and what is to be sent at once (b"" for nothing)?

        Only a repeat is held back: same packet id, DUP set, in the same session. The broker may not use the id for anything else
        before it has our acknowledgement (MQTT 5, 4.3), so a flapping link does not make a slow function do its work twice.
        """
        row = self._rows.get(message.packet_id)
        if row is None or not message.duplicate:
            if row is not None:
                row.in_line = False
            row = self._rows[message.packet_id] = _Incoming(message)
            self._line.append(row)
            return True, b""
        if not row.in_line:
            row.in_line = True
            self._line.append(row)
        return False, self._finished()

    def share(self, message: Message, takers: int) -> None:
        """The message goes to so many takers; it counts as answered when each has."""
        self._rows[message.packet_id].owed = takers

    def answered(self, message: Message, connected: bool) -> bytes:
        """A taker has answered: the acknowledgements that may leave now, b"" if others still work, we are away or the session is
        lost."""
        row = self._rows.get(message.packet_id)
        if row is None or row.message is not message or not row.owed:
            return b""
        row.owed -= 1
        return self._finished() if connected and not row.owed else b""

    def given_back(self, message: Message) -> bytes:
        """Forget it unacknowledged; the broker sends it again on the next connection. Gives what no longer waits behind it."""
        row = self._rows.get(message.packet_id)
        if row is None or row.message is not message:
            return b""
        row.in_line = False
        del self._rows[message.packet_id]
        return self._finished()

    def released(self, packet_id: int) -> bytes:
        """The broker said PUBREL; the PUBCOMP that ends the exchange."""
        self._rows.pop(packet_id, None)
        return encode_acknowledgement(PUBCOMP, packet_id)

    def resume(self) -> None:
        """A new connection of the same session: the broker sends again what it has no acknowledgement for, in its order."""
        for row in self._line:
            row.in_line = False
        self._line.clear()

    def restart(self) -> None:
        """The broker has forgotten the session, and with it every identifier."""
        self._rows.clear()
        self._line.clear()

    def __len__(self) -> int:
        return len(self._rows)

    def _finished(self) -> bytes:
        """The acknowledgements of everything answered at the head of the line."""
        line = self._line
        packets = []
        while line and not (line[0].in_line and line[0].owed):
            row = line.popleft()
            if row.in_line:
                row.in_line = False
                packets.append(self._acknowledgement(row.message))
        return b"".join(packets)

    def _acknowledgement(self, message: Message) -> bytes:
        if message.qos == 2:
            return encode_acknowledgement(PUBREC, message.packet_id)
        del self._rows[message.packet_id]
        return encode_acknowledgement(PUBACK, message.packet_id)
