"""Seconds of everything at once, from one seed: every event is accounted for, none runs twice, and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgehost.event import Event
from edgehost.manifest.model import Queue

SECONDS = float(os.environ.get("EDGEHOST_TEST_STRESS_S", "8"))
MIX = """
    import os, sys, time, asyncio, subprocess
    def work(event):
        ran(event)
        what = event.id.partition("-")[0]
        if what == "slow": time.sleep(0.05)
        if what == "exit": os._exit(3)
        if what == "sysexit": sys.exit(4)
        if what == "raise": raise ValueError("odd")
        if what == "hang": time.sleep(1000)
        if what == "child": subprocess.Popen(["sleep", "1000"])
        if what == "print": print("x" * 1000)
        return what
    {handler}
"""
SYNC = """
    def handler(context, event):
        return items(event) if work(event) == "stream" else event.body
    def items(event):
        for _ in range(50):
            yield event.body[:100]
"""
ASYNC = """
    async def handler(context, event):
        what = work(event)
        await asyncio.sleep(0)
        return items(event) if what == "stream" else event.body
    async def items(event):
        for _ in range(50):
            yield event.body[:100]
"""
KINDS = {"quick": 300, "slow": 4, "raise": 10, "print": 10, "stream": 6, "child": 1, "exit": 2, "sysexit": 1, "hang": 0.4}
SIZES = [0, 10, 1000, 65_000, 66_000, 200_000, 2_000_000]


class Storm:
    """One function under a seeded mix; `outcomes` counts how each submitted event came out."""

    def __init__(self, seed: int, engine: Any, function: Any) -> None:
        self.random = random.Random(seed)
        self.engine = engine
        self.function = function
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.count = 0

    async def one(self) -> None:
        kind = self.random.choices(list(KINDS), list(KINDS.values()))[0]
        self.count += 1
        body = self.random.randbytes(16) * (self.random.choice(SIZES) // 16)
        future = self.function.submit(Event(body, id=f"{kind}-{self.count}"))
        if self.random.random() < 0.05:
            await asyncio.sleep(self.random.random() * 0.01)
            future.cancel()
        try:
            response = await future
        except asyncio.CancelledError:
            self.outcomes["cancelled"] += 1
            return
        self.outcomes[response.code or "answered"] += 1
        if response.chunks is not None:
            await self.read(response, body)
        elif not response.code and response.body != body:
            self.wrong.append(f"{kind}-{self.count}: {len(response.body)} bytes for {len(body)}")

    async def read(self, response: Any, body: bytes) -> None:
        leave_after = self.random.choice([0, 5, 1000])
        got = [response.body]
        try:
            async for chunk in response.chunks:
                got.append(chunk)
                if len(got) > leave_after:
                    await response.chunks.aclose()
                    return
        except ConnectionError:
            self.outcomes["broken off"] += 1
            return
        if got != [body[:100]] * 50:
            self.wrong.append(f"a stream of {len(got)} chunks")

    async def flow(self, end: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            await self.one()

    async def killer(self, end: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            await asyncio.sleep(self.random.random() * 0.4)
            if workers := [worker for worker in self.function.pool.workers if worker.pid]:
                self.random.choice(workers).kill()
            if self.random.random() < 0.1:
                for zygote in list(self.engine.nursery._zygotes.values()):
                    os.kill(zygote.pid, signal.SIGKILL)


@pytest.mark.parametrize("flavour", ["sync", "async"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_every_event_of_a_storm_is_accounted_for(engine: Any, flavour: str, seed: int) -> None:
    code = MIX.format(handler=SYNC if flavour == "sync" else ASYNC)
    function = await engine.function(
        code,
        workers=3,
        timeout_s=1.5,
        concurrency=1 if flavour == "sync" else 8,
        queue=Queue(size=200, policy=random.Random(seed).choice(["block", "reject", "drop_oldest"])),
    )
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    storm = Storm(seed, engine, function)
    end = asyncio.get_running_loop().time() + SECONDS / 4
    await asyncio.wait_for(asyncio.gather(storm.killer(end), *(storm.flow(end) for _ in range(60))), 90)

    assert not storm.wrong
    broken = storm.outcomes.pop("broken off", 0)
    assert sum(storm.outcomes.values()) == storm.count
    assert set(storm.outcomes) <= {
        *("answered", "cancelled", "raised", "worker_died", "timeout", "no_worker", "queue_full", "dropped"),
    }
    assert storm.outcomes["answered"] > 100
    await engine.whole(function)
    assert max(engine.runs().values()) == 1
    counters = function.counters
    settled = counters.handled + counters.failed + counters.dropped
    # An event whose caller left before a worker had it is counted nowhere else.
    assert storm.count - storm.outcomes["cancelled"] <= settled <= storm.count
    assert counters.handled >= storm.outcomes["answered"] - broken
    await engine.until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= descriptors, "descriptors to be given back")
