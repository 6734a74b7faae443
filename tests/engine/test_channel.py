"""Whatever a worker (or a child that got hold of its socket) writes, the agent goes on, and the worker is replaced."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

import pytest

from edgehost.engine import frames
from edgehost.engine.output import OutputPipe
from edgehost.event import Event, Response

WRITES = """
    import os, socket, stat, time
    def channel():
        for fd in range(3, 64):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode) and socket.socket(fileno=os.dup(fd)).family == socket.AF_UNIX:
                    return fd
            except OSError:
                pass
    def handler(context, event):
        ran(event)
        if event.id == "bad":
            os.write(channel(), event.body) if event.body else os.close(channel())
            time.sleep(1000)
        return event.id
"""
GARBAGE = {
    "noise": random.Random(7).randbytes(5000),
    "zeros": bytes(5000),
    "an unknown kind": frames.frame(99, 1),
    "an answer to nothing": frames.frame(frames.ANSWER, 4_000_000, frames.encode(Response())),
    "a chunk of no stream": frames.frame(frames.CHUNK, 1, frames.encode(b"x")),
    "an end of nothing": frames.frame(frames.END, 4_000_000, frames.encode("")),
    "an answer that is no msgpack": frames.frame(frames.ANSWER, 1, b"\xc1"),
    "an answer of the wrong shape": frames.frame(frames.ANSWER, 1, frames.encode([1, 2, 3])),
    "READY once more": frames.frame(frames.READY, 0),
    "nothing but its end": b"",
}


@pytest.mark.parametrize("case", GARBAGE)
async def test_a_worker_that_writes_garbage_is_replaced_and_nothing_else_suffers(
    engine: Any, answer: Any, lines: Any, case: str
) -> None:
    function = await engine.function(WRITES)
    other = await engine.function("handler = lambda context, event: event.body", "other")
    before = function.pool.workers[0].pid
    bad = function.submit(Event(GARBAGE[case], id="bad"))
    after = [function.submit(Event(id=f"a{n}")) for n in range(30)]
    beside = [other.submit(Event(b"%d" % n)) for n in range(30)]
    assert (await answer(bad)).code in ("worker_died", "raised")
    assert [(await answer(future)).body.decode() for future in after] == [f"a{n}" for n in range(30)]
    assert [(await answer(future)).body for future in beside] == [b"%d" % n for n in range(30)]
    await engine.whole(function)
    assert function.pool.workers[0].pid != before
    assert set(engine.runs().values()) == {1}
    if case != "nothing but its end":
        assert any("its channel broke" in line.getMessage() for line in lines())


async def test_a_frame_that_claims_four_gigabytes_takes_no_memory_of_the_agent(engine: Any, answer: Any) -> None:
    import psutil

    function = await engine.function(WRITES, timeout_s=1)
    before = psutil.Process().memory_info().rss
    huge = frames.HEADER.pack(0xFFFFFFF0, 1, 0, 0, 0.0, frames.ANSWER) + bytes(1000)
    assert (await answer(function.submit(Event(huge, id="bad")))).code in ("timeout", "worker_died")
    assert psutil.Process().memory_info().rss - before < 200 << 20


async def test_a_pipe_gives_whole_lines_and_its_last_words() -> None:
    got: asyncio.Queue[str] = asyncio.Queue()
    pipe = OutputPipe(asyncio.get_running_loop(), got.put_nowait)
    os.write(pipe.write_end, b"one\ntwo\npar")
    assert [await got.get(), await got.get()] == ["one", "two"]
    os.write(pipe.write_end, b"tial\nlast")
    pipe.close()
    pipe.close()
    assert [got.get_nowait(), got.get_nowait()] == ["partial", "last"]
    assert got.empty()


async def test_a_pipe_whose_writer_is_gone_closes_itself() -> None:
    got: asyncio.Queue[str] = asyncio.Queue()
    pipe = OutputPipe(asyncio.get_running_loop(), got.put_nowait)
    os.write(pipe.write_end, b"\xff\n\nend")
    pipe.handed_over()
    assert [await got.get(), await got.get(), await got.get()] == ["\ufffd", "", "end"]
    pipe.close()
