"""Feeds the HTTP flows: each request is sent again, with the same Idempotency-Key, until it has its 202.

One whose event has run meanwhile is told the status of its answer instead, 200, which is as good.

Knows the agent's address, and whom to tell of a 202; not what that means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tools.ordeal.bundles import function_of
from tools.ordeal.messages import FLOWS, Flow, Message, message

_ANSWER_S = 5.0
_AGAIN_S = 0.3
_MOST_WAITING = 100
"""With more the agent is away: nothing new until it is back."""


class Web:
    """`tick` is called often; everything that is due by then leaves."""

    def __init__(self, seed: int, port: int, sending: Callable[[Message], None], taken: Callable[[Message], None]) -> None:
        """`sending` is told of each message before it is first sent, `taken` of each 202."""
        self.sent: dict[str, set[int]] = {flow.name: set() for flow in FLOWS if flow.web}
        self.refusals: dict[str, int] = {}
        """By status line: how often a request got no 202. An agent that was away is `none`."""
        self._seed = seed
        self._port = port
        self._sending = sending
        self._taken = taken
        self._next = dict.fromkeys(self.sent, 0)
        self._due = dict.fromkeys(self.sent, 0.0)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Requests that have no 202 yet."""
        return len(self._tasks)

    def tick(self, passed_s: float) -> None:
        """So much time has gone by."""
        if self.waiting > _MOST_WAITING:
            return
        for flow in FLOWS:
            if not flow.web:
                continue
            self._due[flow.name] += passed_s * flow.per_s
            while self._due[flow.name] >= 1.0:
                self._due[flow.name] -= 1.0
                self._send_next(flow)

    def close(self) -> None:
        """Give up what has no 202."""
        for task in self._tasks:
            task.cancel()

    def _send_next(self, flow: Flow) -> None:
        number = self._next[flow.name]
        self._next[flow.name] += 1
        task = asyncio.ensure_future(self._until_taken(message(self._seed, flow, number)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_taken(self, one: Message) -> None:
        self._sending(one)
        self.sent[one.flow].add(one.number)
        await self._once(one)
        if one.again_after_s:
            await asyncio.sleep(one.again_after_s)
            await self._once(one)

    async def _once(self, one: Message) -> None:
        while True:
            try:
                status = await asyncio.wait_for(self._ask(one), _ANSWER_S)
            except (OSError, EOFError, asyncio.TimeoutError):
                status = "none"
            if status.startswith("2"):
                self._taken(one)
                return
            self.refusals[status] = self.refusals.get(status, 0) + 1
            await asyncio.sleep(_AGAIN_S)

    async def _ask(self, one: Message) -> str:
        """One request, over a connection of its own; the status of its answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = (
                f"POST /{function_of(one.flow)} HTTP/1.1\r\nHost: trial\r\nConnection: close\r\nContent-Type: text/plain\r\n"
                f"Idempotency-Key: {one.id}\r\nContent-Length: {len(one.body)}\r\n\r\n"
            )
            writer.write(head.encode() + one.body)
            line = (await reader.readline()).decode("latin-1")
            if not line.endswith("\n"):
                raise EOFError
            return line.partition(" ")[2].strip()
        finally:
            writer.close()
