"""The zygote may die, be busy or be asked for too much: its workers end with it and the next one starts."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Any

import psutil
import pytest

from edgehost.engine.births import decode_report
from edgehost.engine.nursery import Nursery
from edgehost.errors import StartError
from edgehost.event import Event

SLOW = """
    import time
    def handler(context, event):
        ran(event)
        time.sleep(0.002)
        return event.id
"""


def zygote(engine: Any) -> Any:
    return next(iter(engine.nursery._zygotes.values()))


async def test_workers_of_a_killed_zygote_are_replaced_and_no_event_runs_twice(engine: Any, answer: Any) -> None:
    function = await engine.function(SLOW, workers=3)
    for round_ in range(3):
        futures = [function.submit(Event(id=f"{round_}-{n}")) for n in range(150)]
        await asyncio.sleep(0.03)
        old = [worker.pid for worker in function.pool.workers]
        os.kill(zygote(engine).pid, signal.SIGKILL)
        answers = [await answer(future) for future in futures]
        assert {response.code for response in answers} <= {"", "worker_died"}
        assert sum(bool(response.code) for response in answers) <= 3
        await engine.whole(function)
        assert not set(old) & {worker.pid for worker in function.pool.workers}
    assert set(engine.runs().values()) == {1}
    own = psutil.Process()
    await engine.until(lambda: len(own.children()) == 1, "the old workers to be reaped")


async def test_a_zygote_that_dies_while_it_forks_is_started_again(engine: Any, answer: Any) -> None:
    function = engine.build("import time\ntime.sleep(0.05)\nhandler = lambda context, event: 'ok'", workers=8)
    starting = asyncio.create_task(function.start())
    await asyncio.sleep(0.05)
    os.kill(zygote(engine).pid, signal.SIGKILL)
    try:
        await starting
    except StartError as error:
        assert "zygote" in str(error)
    assert (await answer(function.submit(Event()))).body == b"ok"


async def test_a_worker_whose_descriptor_found_no_room_is_ended_and_told(
    engine: Any, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, lost = socket.recv_fds, []

    def receive(*asked: Any) -> Any:
        data, descriptors, flags, address = real(*asked)
        if descriptors and not lost:  # recvmsg(2), MSG_CTRUNC: what the process has no room for is gone
            lost.append(decode_report(data).pid)
            os.close(descriptors.pop())
        return data, descriptors, flags, address

    monkeypatch.setattr(socket, "recv_fds", receive)
    function = engine.build("import time\nif not time.sleep(0.1):\n    handler = lambda context, event: 'ok'")
    with pytest.raises(StartError, match=r"no descriptor left for another worker .*; raise LimitNOFILE="):
        await asyncio.wait_for(function.start(), 20)
    assert (await answer(function.submit(Event()))).body == b"ok"
    await engine.until(lambda: not psutil.pid_exists(lost[0]), "the worker nobody could watch to end")


async def test_a_zygote_that_dies_before_it_is_asked_is_told(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    function = await engine.function("handler = print")
    one = zygote(engine)

    async def gone(*_: Any) -> None:
        one._gone()
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(one, "_ask", gone)
    with pytest.raises(StartError, match="the zygote died while it forked a worker"):
        await one.fork(function.spec, [])


async def test_hundreds_of_workers_start_at_once(engine: Any, answer: Any) -> None:
    function = await engine.function("handler = lambda context, event: ''", workers=150, env={"PADDING": "x" * 4000})
    assert function.pool.ready == 150
    await asyncio.gather(*(answer(function.submit(Event())) for _ in range(300)))


async def test_more_settings_than_a_message_holds_are_refused_in_words(engine: Any) -> None:
    function = engine.build("handler = print", env={"BIG": "x" * 200_000})
    with pytest.raises(StartError, match="131072 is the most"):
        await function.start()
    await function.close()


async def test_functions_of_one_breed_share_a_zygote(engine: Any) -> None:
    await engine.function("handler = print", "a")
    await engine.function("handler = print", "b")
    assert len(engine.nursery._zygotes) == 1
    await engine.function("handler = print", "c", preload=("colorsys",))
    assert len(engine.nursery._zygotes) == 2


async def test_what_is_preloaded_is_there_before_the_fork(engine: Any, answer: Any) -> None:
    code = "import sys\nwas = 'colorsys' in sys.modules\nhandler = lambda context, event: str(was)"
    without = await engine.function(code, "a")
    loaded = await engine.function(code, "b", preload=("colorsys",))
    assert (await answer(without.submit(Event()))).body == b"False"
    assert (await answer(loaded.submit(Event()))).body == b"True"


async def test_a_preload_that_fails_is_no_end(engine: Any, answer: Any) -> None:
    function = await engine.function("handler = lambda context, event: 'ok'", preload=("there_is_no_such_module",))
    assert (await answer(function.submit(Event()))).body == b"ok"


async def test_a_closed_nursery_leaves_nothing_even_with_workers_alive(
    whole_again: None, quiet_loop: None, engine: Any, tmp_path: Any
) -> None:
    function = await engine.function("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nhandler = print", workers=2)
    zygote_pid = zygote(engine).pid
    pids = [worker.pid for worker in function.pool.workers]
    engine.nursery.close()
    await function.close(0.1)
    assert not any(psutil.pid_exists(pid) for pid in [zygote_pid, *pids])
    engine.nursery = Nursery(asyncio.get_running_loop())
