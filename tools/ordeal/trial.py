"""One run: everything is started, fed and hurt by plan, left alone until nothing moves any more, and then counted.

Knows the order of these steps; what a fault is, and what is owed to whom, the modules it calls know.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

from edgehost.delivery.faults import POINTS
from tools.ordeal import bundles, verdict
from tools.ordeal.aftermath import END_S, START_S, STILL_S, Aftermath
from tools.ordeal.broker import Broker, free_port
from tools.ordeal.disk import Disk
from tools.ordeal.ear import Ear
from tools.ordeal.ledger import Ledger
from tools.ordeal.link import Link
from tools.ordeal.messages import Message
from tools.ordeal.schedule import POINT, Fault, plan
from tools.ordeal.sender import Sender
from tools.ordeal.subject import Subject
from tools.ordeal.verdict import Result
from tools.ordeal.wall_clock import WallClock
from tools.ordeal.web import Web
from tools.ordeal.wrongs import Wrongs, settled

_TICK_S = 0.02
_CALM_FEED_S = 3.0
_MOST_AT_ONCE = 4
_MOST_BACKLOG = 800
"""With more that the agent has not taken nothing new is sent: a broker that saves all of it at every change would become the
slowest of all."""


class Trial:
    """`run` once."""

    def __init__(self, folder: Path, seed: int, minutes: float, only: str, say: Callable[[str], None]) -> None:
        """`folder` is empty. Raises RuntimeError where something it needs is missing."""
        self._seed, self._minutes = seed, minutes
        self._plan = plan(seed, minutes, POINTS, only)
        self._began = time.monotonic()
        self._history = (folder / "history.log").open("w")
        self._ledger = Ledger(self._write, time.monotonic)
        self._broker = Broker(folder / "broker")
        self._clock = WallClock(folder)
        self._disk = Disk(folder / "state")
        self._link = Link(self._ledger, self._broker.port)
        self._http_port = free_port()
        functions = bundles.write(folder / "functions")
        self._subject = Subject(folder, self._disk.place, functions, self._link.port, self._http_port, self._clock.environment)
        self._wrongs = Wrongs(self._subject, self._broker, self._link, self._disk, self._clock, self._replay, self._tell)
        self._sender = Sender(seed, self._broker.port)
        self._ear = Ear(self._broker.port)
        self._web = Web(seed, self._http_port, self._offer_over_http, self._taken_over_http)
        self._aftermath = Aftermath(
            seed, self._ledger, self._subject, self._sender, self._web, folder / "functions", self._disk.place
        )
        self._say = say
        self._feeding = False
        self._longest_stall_s = 0.0
        self._troubles: list[str] = []

    async def run(self) -> Result:
        """From the first process to the last count. Raises RuntimeError when the agent cannot even be started."""
        await self._start()
        ticking = asyncio.ensure_future(self._tick())
        watching = asyncio.ensure_future(self._watch())
        try:
            self._feeding = True
            await self._faults()
            await self._calm()
            await asyncio.sleep(_CALM_FEED_S)
            self._feeding = False
            await self._aftermath.drained(self._tell)
            watching.cancel()
            await self._aftermath.check_letters(self._tell)
        finally:
            ticking.cancel()
            watching.cancel()
        return self._result()

    def close(self, keep: bool) -> None:
        """End every process; `keep` what is needed to understand it."""
        self._web.close()
        self._sender.close()
        self._ear.close()
        self._subject.end(END_S)
        self._link.close()
        self._broker.end()
        self._disk.close(keep)
        self._history.close()

    async def _start(self) -> None:
        self._broker.start()
        await _until(lambda: _answers(self._broker.port), START_S, "mosquitto to listen")
        await self._link.start()
        self._subject.start()
        if not await settled(self._subject, START_S):
            raise RuntimeError(f"the agent did not become ready; the end of its log:\n{self._subject.last_lines(15)}")
        self._ear.start()
        self._sender.start()

    async def _faults(self) -> None:
        """The plan, as far as its time goes; then the points that were not reached, once more each."""
        self._began = begun = time.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        for fault in self._plan:
            await asyncio.sleep(max(0.0, begun + fault.at_s - time.monotonic()))
            while len(under_way) >= _MOST_AT_ONCE:
                _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            if time.monotonic() - begun > self._minutes * 60:
                break
            under_way.add(asyncio.ensure_future(self._wrongs.carry_out(fault)))
        if under_way:
            await asyncio.gather(*under_way)
        for kind in sorted({fault.kind for fault in self._plan if fault.point}):
            if not self._wrongs.done[kind]:
                await self._wrongs.carry_out(Fault(0, time.monotonic() - begun, kind, 0.0, 1))

    async def _calm(self) -> None:
        """Whatever was wrong is undone; the agent comes up."""
        self._tell("no more faults")
        self._link.flow()
        self._link.delay_s, self._link.cut_next = 0.0, False
        self._disk.empty()
        self._broker.start()
        self._subject.kill()
        self._subject.true_clock()
        self._subject.start()
        if not await settled(self._subject, 2 * STILL_S):
            self._troubles.append("an agent left alone did not become ready again")

    async def _tick(self) -> None:
        """Feed, and measure how long nothing came though nothing was wrong."""
        last = counted = time.monotonic()
        backlog = 0
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            if now - counted > 1.0:
                counted, backlog = now, self._backlog()
            if self._feeding:
                if backlog < _MOST_BACKLOG:
                    self._sender.tick(min(now - last, 0.5))
                self._web.tick(min(now - last, 0.5))
            if self._wrongs.calm and (self._feeding or self._aftermath.owed):
                stall_s = now - max(self._ledger.answered_at, self._wrongs.calm_since)
                self._longest_stall_s = max(self._longest_stall_s, stall_s)
            last = now

    def _backlog(self) -> int:
        """Messages that wait with the broker, and those it has lost."""
        sent = sum(len(numbers) for numbers in self._sender.sent.values())
        return sent - sum(flow not in self._web.sent for flow, _ in self._ledger.taken)

    async def _watch(self) -> None:
        """An agent or a broker that ends by itself is started again, and told of."""
        while True:
            await asyncio.sleep(0.2)
            if not self._wrongs.agent_in_hand.locked() and not self._subject.running:
                self._troubles.append(f"the agent ended by itself with {self._subject.status}: {self._subject.last_lines(3)}")
                self._tell(self._troubles[-1])
                self._subject.start()
            if not self._wrongs.broker_in_hand.locked() and not self._broker.running:
                self._tell("mosquitto ended by itself")
                self._broker.start()

    def _result(self) -> Result:
        ledger = self._ledger
        sent = self._sender.sent | self._web.sent
        self._troubles += self._aftermath.troubles + self._link.failures
        self._troubles += [f"a packet identifier in use was used again: {clash}" for clash in ledger.clashes[: verdict.SHOWN]]
        points = {fault.kind for fault in self._plan if fault.kind.startswith(POINT)}
        return Result(
            seed=self._seed,
            seconds=time.monotonic() - self._began,
            faults=dict(sorted(self._wrongs.done.items())),
            unreached=sorted(kind.removeprefix(POINT) for kind in points if not self._wrongs.done[kind]),
            skipped=self._wrongs.skipped,
            counts=verdict.count(ledger, sent, self._ear.heard),
            letters=self._aftermath.letters,
            refused=sum(ledger.refused.values()),
            longest_stall_s=self._longest_stall_s,
            refusals=self._web.refusals,
            troubles=self._troubles,
        )

    def _offer_over_http(self, one: Message) -> None:
        self._ledger.asked.add((one.flow, one.number))
        self._ledger.note(one.id, "http request")

    def _taken_over_http(self, one: Message) -> None:
        self._ledger.note(one.id, "http 202")
        self._ledger.take((one.flow, one.number))

    async def _replay(self) -> bool:
        return await self._aftermath.replay_some()

    def _tell(self, text: str) -> None:
        self._write("", text)
        self._say(text)

    def _write(self, of: str, text: str) -> None:
        self._history.write(f"{time.monotonic() - self._began:9.3f} {of or '-'} {text}\n")


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


async def _until(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {limit_s:g} s for {what}")
        await asyncio.sleep(0.05)
