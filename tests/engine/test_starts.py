"""A function that cannot be started says why, is tried again, and works as soon as it is mended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from edgehost.engine import cell, channel, confinement
from edgehost.errors import StartError
from edgehost.event import Event
from edgehost.manifest.model import Limits

BROKEN = {
    "a missing module": ("import no_such_module\nhandler = print", "No module named 'no_such_module'"),
    "a syntax error": ("def handler(:\n", "main.py"),
    "an import that raises": ("raise ValueError('at import')", "ValueError: at import"),
    "no handler": ("def other(context, event): pass", "has no function 'handler'"),
    "a handler that is none": ("handler = 3", "no function"),
    "init_context raises": ("def init_context(context):\n    raise ValueError('in init')\nhandler = print", "in init"),
    "async init_context raises": (
        "async def init_context(context):\n    raise ValueError('in init')\nasync def handler(context, event): pass",
        "in init",
    ),
    "sys.exit at import": ("import sys\nsys.exit(4)\nhandler = print", "sys.exit"),
    "os._exit at import": ("import os\nos._exit(4)", "exit status 4"),
    "a crash at import": ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
    "KeyboardInterrupt at import": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_function_that_cannot_start_says_why(engine: Any, lines: Any, case: str) -> None:
    code, told = BROKEN[case]
    function = engine.build(code, workers=2)
    with pytest.raises(StartError) as caught:
        await function.start()
    assert told in str(caught.value)
    await engine.until(lambda: function.pool.state == "failed")
    assert told in function.last_error
    assert any(told in line.getMessage() for line in lines())
    await function.close()
    assert function.pool.state == "stopped"


async def test_a_start_that_takes_too_long_is_killed_and_told(engine: Any) -> None:
    function = engine.build("import time\ntime.sleep(1000)\nhandler = print", start_timeout_s=0.2)
    with pytest.raises(StartError, match=r"not ready within 0\.2 s"):
        await function.start()
    await function.close()


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_function_that_is_mended_starts_and_handles_what_waited(engine: Any, answer: Any, workers: int) -> None:
    function = engine.build(
        """
        import os
        if not os.path.exists("mended"):
            raise ValueError("not yet")
        handler = lambda context, event: "well"
        """,
        workers=workers,
    )
    with pytest.raises(StartError, match="not yet"):
        await function.start()
    waiting = function.submit(Event())
    assert not function.pool.came_up.is_set()
    (engine.folder / "f" / "mended").touch()
    assert (await answer(waiting)).body == b"well"
    assert function.pool.came_up.is_set()


async def test_an_agent_short_of_descriptors_tries_again(engine: Any, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = channel.create, []

    def refuse(name: str) -> int:
        if len(refused) < 2:
            refused.append(name)
            raise OSError(24, "Too many open files")
        return real(name)

    monkeypatch.setattr(channel, "create", refuse)
    function = engine.build("handler = lambda context, event: 'ok'")
    with pytest.raises(StartError, match="Too many open files"):
        await function.start()
    assert (await answer(function.submit(Event()))).body == b"ok"


@pytest.mark.parametrize("short_of", ["edgehost-inbound", "edgehost-outbound", "an output pipe"])
async def test_a_worker_that_cannot_be_made_leaves_nothing(
    engine: Any, answer: Any, monkeypatch: pytest.MonkeyPatch, short_of: str
) -> None:
    create, pipe, refused = channel.create, os.pipe2, []

    def refuse(name: str, made: Any) -> Any:
        if name == short_of and len(refused) < 2:
            refused.append(len(list(engine.nursery.cells._temp._root.iterdir())))
            raise OSError(24, "Too many open files")
        return made

    monkeypatch.setattr(channel, "create", lambda name: refuse(name, name) and create(name))
    monkeypatch.setattr(os, "pipe2", lambda flags: refuse("an output pipe", True) and pipe(flags))
    function = engine.build("handler = lambda context, event: 'ok'")
    with pytest.raises(StartError, match="Too many open files"):
        await function.start()
    assert (await answer(function.submit(Event()))).body == b"ok"
    assert refused == [1, 1]  # its own temporary folder each time, and none of a try before
    assert len(list(engine.nursery.cells._temp._root.iterdir())) == 1


async def test_a_mistake_while_a_worker_is_made_is_told_and_passes(
    engine: Any, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, mistakes = cell.ports, []

    def mistaken(*asked: Any) -> Any:
        if len(mistakes) < 2:
            mistakes.append(asked)
            raise RuntimeError("Symlink loop from '/opt/x'")
        return real(*asked)

    monkeypatch.setattr(cell, "ports", mistaken)
    function = engine.build("handler = lambda context, event: 'ok'")
    with pytest.raises(StartError, match="its worker cannot be made: RuntimeError: Symlink loop"):
        await function.start()
    assert (await answer(function.submit(Event()))).body == b"ok"
    assert len(mistakes) == 2


async def test_events_wait_while_the_function_starts(engine: Any, answer: Any) -> None:
    function = engine.build("import time\ntime.sleep(0.2)\nhandler = lambda context, event: 'ok'")
    future = function.submit(Event())
    starting = asyncio.create_task(function.start())
    assert (await answer(future)).body == b"ok"
    await starting


async def test_init_context_runs_once_in_each_worker(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        count = 0
        def init_context(context):
            global count
            count += 1
            context.user_data.n = count
        def handler(context, event):
            return f"{context.user_data.n} {context.worker_id}"
        """,
        workers=2,
    )
    assert {(await answer(function.submit(Event()))).body[:2] for _ in range(20)} == {b"1 "}


async def test_a_worker_sees_no_secret_of_the_agent(engine: Any, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    function = await engine.function(
        "import os\nhandler = lambda context, event: dict(os.environ)", env={"MINE": "given"}, version="1.2.3"
    )
    import json

    seen = json.loads((await answer(function.submit(Event()))).body)
    assert "BROKER_PASSWORD" not in seen
    assert "secret" not in str(seen)
    assert (seen["MINE"], seen["LANG"], seen["NUCLIO_FUNCTION_NAME"]) == ("given", "C.UTF-8", "f")


async def test_a_worker_has_no_descriptor_of_the_agent(engine: Any, answer: Any) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        function = await engine.function("""
            import os
            def handler(context, event):
                shown = {}
                for fd in os.listdir("/proc/self/fd"):
                    try:
                        shown[fd] = os.readlink("/proc/self/fd/" + fd)
                    except OSError:
                        pass
                return shown
        """)
        import json

        shown = json.loads((await answer(function.submit(Event()))).body)
        assert str(Path(f"/proc/self/fd/{write}").readlink()) not in shown.values()
        kinds = [path.split(":")[0].partition(" ")[0] for path in shown.values()]
        assert kinds.count("socket") == 1
        assert len([kind for kind in kinds if "memfd" in kind]) == 2
    finally:
        os.close(read)
        os.close(write)


async def test_a_worker_lives_in_its_folder_and_session(engine: Any, answer: Any) -> None:
    function = await engine.function("import os\nhandler = lambda c, e: [os.getcwd(), os.getsid(0) == os.getpid(), os.getpgrp()]")
    import json

    folder, leads, _group = json.loads((await answer(function.submit(Event()))).body)
    assert os.path.realpath(folder) == os.path.realpath(engine.folder / "f")
    assert leads


async def test_memory_over_the_limit_is_a_failed_event(engine: Any, answer: Any) -> None:
    function = await engine.function(
        "def handler(context, event):\n    return str(len(bytearray(int(event.body))))",
        limits=Limits(memory_bytes=256 << 20),
    )
    pid = function.pool.workers[0].pid
    response = await answer(function.submit(Event(b"1000000000")))
    assert (response.code, response.body) == ("raised", b"MemoryError")
    assert (await answer(function.submit(Event(b"1000000")))).body == b"1000000"
    assert function.pool.workers[0].pid == pid


async def test_open_files_over_the_limit_are_a_failed_event(engine: Any, answer: Any) -> None:
    function = await engine.function(
        "import os\ndef handler(context, event):\n    x = [open(os.devnull) for _ in range(int(event.body))]\n    return 'ok'",
        limits=Limits(open_files=64),
    )
    assert b"Too many open files" in (await answer(function.submit(Event(b"100")))).body
    assert (await answer(function.submit(Event(b"3")))).body == b"ok"


async def test_cpu_seconds_that_are_spent_end_the_worker_and_say_so(engine: Any, answer: Any) -> None:
    function = await engine.function(
        "def handler(context, event):\n    while event.id == 'burn':\n        pass\n    return 'ok'", limits=Limits(cpu_s=1)
    )
    response = await answer(function.submit(Event(id="burn")))
    assert response.code == "worker_died"
    assert b"cpu_s is spent" in response.body
    assert (await answer(function.submit(Event()))).body == b"ok"


async def test_niceness_is_set(engine: Any, answer: Any) -> None:
    function = await engine.function("import os\nhandler = lambda c, e: str(os.nice(0))", limits=Limits(niceness=7))
    assert (await answer(function.submit(Event()))).body == b"7"


async def test_a_limit_that_cannot_be_set_is_named(engine: Any) -> None:
    function = engine.build("handler = print", limits=Limits(cpu_s=(1 << 63) - 1))
    with pytest.raises(StartError, match=r"limits\.cpu_s: 9223372036854775807 cannot be set: .*; use less"):
        await function.start()
    await function.close()


def test_a_niceness_only_others_may_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nice(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "nice", nice)
    with pytest.raises(StartError) as caught:
        confinement._give_way(-5)
    assert str(caught.value) == (
        "limits.niceness: -5 is not the agent's to give: below 0 needs CAP_SYS_NICE; use 0 and up, "
        "or give its service LimitNICE=-5"
    )
