"""A receiver in memory and the output that leads to it: what an MQTT broker and its session do, in the order of the test."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgehost.delivery.journal import Journal
from edgehost.delivery.lane import Lane
from edgehost.delivery.outbox import Outbox
from edgehost.errors import AwayError, TriggerError
from edgehost.event import Event, Response
from edgehost.manifest.model import Store
from edgehost.parcel import Parcel, Slip


@dataclass
class Receiver:
    """Outlives agents. `got` is what has arrived, `late` what of it was marked, `open` the numbers it has not let go."""

    name: str = "there"
    here: bool = True
    got: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    open: dict[int, str] = field(default_factory=dict)

    def take(self, parcel: Parcel, late: bool, number: int = 0) -> None:
        """What comes again under an open number is the same, or somebody has given it to another one."""
        body = parcel.body.decode()
        if number and number in self.open:
            assert self.open[number] == body, f"number {number} of {self.open[number]} used for {body}"
            return
        if number:
            self.open[number] = body
        self.got.append(body)
        if late:
            self.late.append(body)


@dataclass
class _Sent:
    parcel: Parcel
    late: bool
    slip: Slip | None
    done: asyncio.Future[None]
    round: int


class Output:
    """An edgehost.plugin.Forwarding. What is sent waits in `sent` until the test has it answered."""

    Settings: Any = None

    def __init__(self, receiver: Receiver, *, numbered: bool = False, window: int = 10, at_once: bool = False) -> None:
        self.to = receiver
        self.window = window  # type: ignore[misc]
        self.numbered = numbered
        self.receiver = receiver.name
        self.at_once = at_once
        """`send` is safe when it returns, as at QoS 0."""
        self.sent: deque[_Sent] = deque()
        self.begun = 0
        """So many of `sent` have left; the others wait in the output."""
        self.at_most = 1 << 30
        self._tells: list[Callable[[], None]] = []
        self._round, self._refused = 0, -1
        """As in outputs/http.py: what was sent before a refusal was heard of is refused with it."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    @property
    def reachable(self) -> bool:
        return self.to.here

    def on_reachable(self, tell: Callable[[], None]) -> None:
        self._tells.append(tell)

    def pack(self, event: Event, response: Response) -> Parcel:
        return Parcel(event.path, bytes(response.body))

    def send(self, event: Event, response: Response) -> asyncio.Future[None] | None:
        parcel = self.pack(event, response)
        if self.at_once:
            self.to.take(parcel, False)
            return None
        return self.post(parcel, False)

    def post(self, parcel: Parcel, late: bool, slip: Slip | None = None) -> asyncio.Future[None]:
        if len(self.sent) >= self.at_most:
            raise AwayError("too many wait already")
        one = _Sent(parcel, late, slip, asyncio.get_running_loop().create_future(), self._round)
        one.done.add_done_callback(lambda done, round=one.round: self._heard(round, done))  # type: ignore[misc]
        if one.round <= self._refused:
            _end(one, AwayError("busy"))
        else:
            self.sent.append(one)
        return one.done

    def _heard(self, round: int, done: asyncio.Future[None]) -> None:
        if round == self._round and isinstance(done.exception(), AwayError):
            self._round += 1

    def recall(self, waits: Collection[asyncio.Future[None]], begun: bool) -> None:
        kept = [each for number, each in enumerate(self.sent) if each.done not in waits or (number < self.begun and not begun)]
        back = [each for each in self.sent if each not in kept]
        self.begun = sum(each in kept for number, each in enumerate(self.sent) if number < self.begun)
        self.sent = deque(kept)
        for each in back:
            _end(each, AwayError("away"))

    # What the test does.

    def see(self, here: bool) -> None:
        """The receiver comes or goes. What has left by then may have arrived, and is sent again."""
        if here != self.to.here:
            self.begun = min(len(self.sent), 3)
            self.to.here = here
            for tell in self._tells:
                tell()

    def answer(self, most: int = 1 << 30) -> int:
        """The receiver takes so many, the first ones first; gives how many."""
        count = 0
        while self.sent and self.to.here and count < most:
            count += 1
            one = self.sent.popleft()
            self.begun = max(0, self.begun - 1)
            if one.slip is None:
                self.to.take(one.parcel, one.late)
                _end(one)
                continue
            if not one.slip.released:
                self.to.take(one.parcel, one.late, one.slip.number)
                one.slip.release(lambda one=one: self._released(one))  # type: ignore[misc]
            else:
                self._released(one)
        return count

    def refuse(self, error: TriggerError, most: int = 1 << 30) -> None:
        """So many are refused, the first ones first."""
        while self.sent and most:
            most -= 1
            if isinstance(error, AwayError):
                self._refused = self.sent[0].round
            _end(self.sent.popleft(), error)
        self.begun = 0

    def _released(self, one: _Sent) -> None:
        assert one.slip is not None
        self.to.open.pop(one.slip.number, None)
        _end(one)


def _end(one: _Sent, error: Exception | None = None) -> None:
    if one.done.done():
        return
    if error is None:
        one.done.set_result(None)
    else:
        one.done.set_exception(error)


class Agent:
    """Journal, outbox and one lane in a folder: what a process has of them."""

    def __init__(self, folder: Path, limit: int = 1 << 30, drain_per_s: float = 1e6) -> None:
        self.journal = Journal(folder / "journal.db", relaxed=True)
        self.outbox = Outbox(self.journal, limit, drain_per_s)

    async def lane(self, output: Any = None, name: str = "out", rules: Store = Store(), function: str = "f") -> Lane:  # noqa: B008
        lane = self.outbox.lane(function, name)
        await lane.open()
        if output is not None:
            lane.attach(output, rules)
        return lane

    async def written(self) -> None:
        """Everything handed over is on disk, and everybody has been told."""
        for _ in range(3):
            await self.journal.ask(lambda connection: None)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def rows(self) -> int:
        count: int = await self.journal.ask(lambda connection: connection.execute("SELECT count(*) FROM outbox").fetchone()[0])
        return count

    async def close(self) -> None:
        self.outbox.close()
        await asyncio.sleep(0)
        await self.journal.close()


def say(lane: Lane, to: str, body: str) -> asyncio.Future[None] | None:
    """Send `body` to `to`."""
    wait = lane.send(Event(path=to), Response(body=body.encode()))
    return None if wait is None else asyncio.ensure_future(wait)


def at_rest(agent: Agent) -> None:
    """Nothing is counted that is not there."""
    for lane in agent.outbox.lanes.values():
        assert (lane.count, lane.bytes, bool(lane.tally.tos), lane.state) == (0, 0, False, "direct")
    assert len(agent.outbox.numbers) == 0
