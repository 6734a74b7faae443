"""However a worker dies, each event is answered exactly once or failed, none runs twice, and a new worker stands in."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgehost.event import Event

DIES = """
    import ctypes, os, signal, sys, time
    def handler(context, event):
        ran(event)
        if event.id == "bad":
            {end}
        return event.id
"""
ENDS = {
    "os._exit": ("os._exit(7)", "exit status 7"),
    "sys.exit": ("sys.exit(7)", "sys.exit(7)"),
    "sys.exit in words": ("sys.exit('enough')", "enough"),
    "SIGSEGV": ("ctypes.string_at(0)", "SIGSEGV"),
    "SIGABRT": ("os.abort()", "SIGABRT"),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "a real-time signal": ("os.kill(os.getpid(), 40)", "signal 40"),
    "its own group": ("os.killpg(0, signal.SIGTERM)", "SIGTERM"),
}
FLAVOURS = {"sync": "def handler", "async": "async def handler"}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("end", ENDS)
async def test_only_the_event_that_ended_its_worker_fails(engine: Any, answer: Any, end: str, flavour: str) -> None:
    statement, told = ENDS[end]
    code = DIES.format(end=statement)
    function = await engine.function(code.replace("def handler", FLAVOURS[flavour]))
    before = [function.submit(Event(id=f"b{n}")) for n in range(40)]
    bad = function.submit(Event(id="bad"))
    after = [function.submit(Event(id=f"a{n}")) for n in range(40)]
    response = await answer(bad)
    assert (response.code, response.status) == ("worker_died", 500)
    assert told in response.body.decode()
    good = [await answer(future) for future in [*before, *after]]
    assert [response.body.decode() for response in good] == [f"b{n}" for n in range(40)] + [f"a{n}" for n in range(40)]
    assert set(engine.runs().values()) == {1}
    assert (function.counters.handled, function.counters.failed) == (80, 1)


async def test_a_worker_killed_from_outside_loses_at_most_the_event_in_hand(engine: Any, answer: Any) -> None:
    function = await engine.function("""
        import time
        def handler(context, event):
            ran(event)
            time.sleep(0.0005)
            return event.id
    """)
    failed = 0
    for round_ in range(8):
        futures = [function.submit(Event(id=f"{round_}-{n}")) for n in range(100)]
        await asyncio.sleep(0.005 * round_)
        pid = function.pool.workers[0].pid
        if pid:
            os.kill(pid, signal.SIGKILL)
        answers = [await answer(future) for future in futures]
        assert [response.body.decode() for response in answers if not response.code] == [
            f"{round_}-{n}" for n in range(100) if not answers[n].code
        ]
        codes = [response.code for response in answers if response.code]
        assert codes in ([], ["worker_died"])
        failed += len(codes)
    assert set(engine.runs().values()) == {1}
    assert function.counters.failed == failed


async def test_answers_finished_before_a_crash_are_delivered(engine: Any, answer: Any) -> None:
    """They lie unsent in the worker when it dies."""
    function = await engine.function("""
        import os
        def handler(context, event):
            if event.id == "bad":
                os._exit(1)
            return event.id
    """)
    await asyncio.gather(*(answer(function.submit(Event())) for _ in range(300)))
    for _ in range(20):
        quick = [function.submit(Event(b"x" * 70_000, id=f"q{n}")) for n in range(8)]
        bad = function.submit(Event(id="bad"))
        assert [(await answer(future)).body.decode() for future in quick] == [f"q{n}" for n in range(8)]
        assert (await answer(bad)).code == "worker_died"
        await asyncio.gather(*(answer(function.submit(Event())) for _ in range(30)))


async def test_finished_answers_of_an_async_worker_survive_its_crash(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        import asyncio, os
        async def handler(context, event):
            if event.id == "bad":
                os._exit(1)
            return event.id
        """,
        concurrency=16,
    )
    quick = [function.submit(Event(id=f"q{n}")) for n in range(8)]
    bad = function.submit(Event(id="bad"))
    assert [(await answer(future)).body.decode() for future in quick] == [f"q{n}" for n in range(8)]
    assert (await answer(bad)).code == "worker_died"


CHILDREN = """
    import os, signal, subprocess, time

    def stays():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(10000)

    def daemon():
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(tell, str(os.getpid()).encode())
                stays()
            os._exit(0)
        os.waitpid(pid, 0)
        return int(os.read(told, 20))

    def plain():
        pid = os.fork()
        if pid == 0:
            stays()
        return pid

    def handler(context, event):
        if event.id == "die":
            os._exit(1)
        return [subprocess.Popen(["sleep", "10000"]).pid, plain(), daemon(), daemon()]
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("end", ["it dies", "it is killed", "the function closes", "the zygote dies"])
async def test_children_and_daemons_of_a_worker_end_with_it(engine: Any, answer: Any, end: str, lines: Any) -> None:
    import json

    function = await engine.function(CHILDREN)
    pids = json.loads((await answer(function.submit(Event()))).body)
    assert len(pids) == 4
    assert not any(gone(pid) for pid in pids)
    if end == "it dies":
        await answer(function.submit(Event(id="die")))
    elif end == "it is killed":
        os.kill(function.pool.workers[0].pid, signal.SIGKILL)
    elif end == "the function closes":
        await function.close()
    else:
        os.kill(next(iter(engine.nursery._zygotes.values())).pid, signal.SIGKILL)
    await engine.until(lambda: all(gone(pid) for pid in pids), "its children to end")


async def test_a_forked_child_that_returns_from_the_handler_harms_nobody(engine: Any, answer: Any) -> None:
    function = await engine.function("""
        import os
        def handler(context, event):
            ran(event)
            if event.id == "fork" and os.fork() == 0:
                print("from the child")
                return "child"
            return "parent"
    """)
    pid = function.pool.workers[0].pid
    answers = [await answer(function.submit(Event(id=each))) for each in ["fork", "a", "fork", "b"]]
    many = [function.submit(Event(id="fork" if n % 10 == 0 else "c")) for n in range(200)]
    answers += [await answer(future) for future in many]
    assert {response.body for response in answers} == {b"parent"}
    assert function.pool.workers[0].pid == pid
    assert sum(engine.runs().values()) == 204


async def test_a_crash_loop_is_told_waits_and_mends(engine: Any, answer: Any, lines: Any) -> None:
    function = await engine.function("""
        import os
        def handler(context, event):
            if not os.path.exists("mended"):
                os._exit(3)
            return "well"
    """)
    for _ in range(3):
        assert (await answer(function.submit(Event()))).code == "worker_died"
    await engine.until(lambda: function.pool.state == "crash_loop")
    assert "exit status 3" in function.last_error
    assert any("started again in" in line.getMessage() for line in lines())
    (engine.folder / "f" / "mended").touch()
    assert (await answer(function.submit(Event()))).body == b"well"
    assert function.pool.state == "ready"


async def test_a_worker_that_has_answered_is_replaced_at_once(engine: Any, answer: Any) -> None:
    function = await engine.function(DIES.format(end="os._exit(1)"))
    for _ in range(10):
        assert (await answer(function.submit(Event(id="good")))).body == b"good"
        assert (await answer(function.submit(Event(id="bad")))).code == "worker_died"
    assert function.pool.state in ("ready", "degraded", "starting")


async def test_descriptors_do_not_add_up_over_many_deaths(engine: Any, answer: Any) -> None:
    function = await engine.function(DIES.format(end="os._exit(1)"), workers=2)
    await engine.whole(function)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        await answer(function.submit(Event(id="good")))
        await answer(function.submit(Event(id="bad")))
    await engine.whole(function)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
