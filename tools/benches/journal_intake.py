"""The part of `tools/bench journal` that is one process: a trigger's Inflow over a real Journal, the rest stood in for.

A closed loop as a trigger makes it: an event is made, received, its future awaited (ACCEPTED: it is on disk); then the next.
Where the function answers, the next comes when the event has ended on disk. All cases are run in turn, ROUNDS times, beside a
bare loop that appends and syncs: other work on the machine comes and goes. CPU is the whole process's, with the making of events.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tools.benches.journal_stand_in import BODY, Source, encoded_event
from tools.benches.report import Row

ROUNDS = 3
_MANY = 1000
_MQTT = 64


@dataclass(frozen=True)
class Case:
    """What is done with each event. `answered`: the function takes it and answers at once, and its end is on disk too."""

    title: str
    in_flight: int
    answered: bool = False
    dedupe: bool = False
    output: bool = False


@dataclass(frozen=True)
class Found:
    """One run."""

    per_s: float
    cpu_us: float
    written_bytes: float
    """For each event."""
    p50_ms: float


_ALONE = Case("intake alone, one at a time", 1)
_BATCHED = Case(f"intake alone, {_MANY:,} in flight", _MANY)
_BATCHED_WHOLE = Case(f"received, answered at once, ended on disk, {_MANY:,} in flight", _MANY, answered=True)
CASES = (
    _ALONE,
    Case(f"intake alone, {_MQTT} in flight (an mqtt trigger's own)", _MQTT),
    _BATCHED,
    Case("received, answered at once, ended on disk, one at a time", 1, answered=True),
    _BATCHED_WHOLE,
    Case(f"the same with dedupe, {_MANY:,} in flight", _MANY, answered=True, dedupe=True),
    Case(f"the same with one output stored and sent, {_MANY:,} in flight", _MANY, answered=True, output=True),
)
REACHES = {_BATCHED: (20_000.0, 15.0)}
"""Events a second at the least, CPU microseconds for each at the most."""


def run(folder: Path, seconds: float) -> list[Row]:
    """Every case, and the bare loop."""
    runs: dict[Case, list[Found]] = {case: [] for case in CASES}
    bare_ms: list[float] = []
    for number in range(ROUNDS):
        for case in CASES:
            place = folder / f"{number}-{CASES.index(case)}"
            runs[case].append(asyncio.run(_measure(case, place, seconds / ROUNDS)))
        bare_ms.append(_bare_ms(folder / f"bare-{number}", seconds / ROUNDS))
    alone_ms = median(found.p50_ms for found in runs[_ALONE])
    return [
        *(row for case in CASES for row in rows(case, runs[case])),
        Row("one durable event at a time, until it is on disk: p50", alone_ms, "ms", higher_is_better=False),
        Row(f"a bare loop that appends and syncs {len(encoded_event())} B: p50", median(bare_ms), "ms", higher_is_better=False),
        Row("one durable event at a time, against that", alone_ms / median(bare_ms), "x", higher_is_better=False),
    ]


def rows(case: Case, runs: list[Found]) -> list[Row]:
    """What is told of a case."""
    per_s, cpu_us = REACHES.get(case, (None, None))
    title = f"{len(BODY)} B, {case.title}"
    written = median(found.written_bytes for found in runs)
    return [
        Row(f"{title}: rate", median(found.per_s for found in runs), "events/s", per_s),
        Row(f"{title}: CPU", median(found.cpu_us for found in runs), "µs/event", cpu_us, higher_is_better=False),
        Row(f"{title}: written", written, "B/event", higher_is_better=False),
    ]


async def _measure(case: Case, folder: Path, seconds: float) -> Found:
    source = await Source.opened(folder, case.answered, case.dedupe, case.output)
    written, cpu_s, began = source.written_bytes(), time.process_time(), time.perf_counter()
    await _closed_loop(source, case.in_flight, began + seconds)
    await source.ended()
    took_s = time.perf_counter() - began
    cpu_s, written = time.process_time() - cpu_s, source.written_bytes() - written
    await source.close()
    events = len(source.waits_s)
    return Found(events / took_s, cpu_s / events * 1e6, written / events, median(source.waits_s) * 1e3)


async def _closed_loop(source: Source, in_flight: int, end: float) -> None:
    """So many at any time until `end`; returns when the last of them is over."""
    finished = asyncio.get_running_loop().create_future()
    under_way = in_flight

    def over() -> None:
        nonlocal under_way
        if time.perf_counter() < end:
            source.submit()
            return
        under_way -= 1
        if not under_way:
            finished.set_result(None)

    source.over = over
    for _ in range(in_flight):
        source.submit()
    await finished


def _bare_ms(path: Path, seconds: float) -> float:
    """The median of an append of one event's bytes and its fsync."""
    data, times = encoded_event(), []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        os.write(descriptor, data)
        os.fsync(descriptor)
        times.append(time.perf_counter() - began)
    os.close(descriptor)
    return median(times) * 1e3
