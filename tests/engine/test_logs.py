"""Everything a function writes becomes log lines that bear its name and its event, and a flood of them hurts nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgehost.engine.output import LINE_MAX
from edgehost.event import Event, Origin

WRITES = {
    "print": ("print('a word')", "INFO"),
    "print without a newline": ("print('a word', end='')", "INFO"),
    "print to stderr": ("import sys; print('a word', file=sys.stderr)", "WARNING"),
    "logging": ("import logging; logging.getLogger('x').warning('a %s', 'word')", "WARNING"),
    "context": ("context.logger.error_with('a word', key=1)", "ERROR"),
}
ANONYMOUS = {
    "a child process": "import subprocess; subprocess.run(['echo', 'a word'])",
    "C code": "import ctypes; libc = ctypes.CDLL(None); libc.write(1, b'a word\\n', 7)",
    "the raw descriptor": "import os; os.write(2, b'a word')",
    "a thread": "import threading; t = threading.Thread(target=print, args=('a word',)); t.start(); t.join()",
    "a forked child": "import os; pid = os.fork()\n    if not pid: print('a word'); os._exit(0)\n    os.waitpid(pid, 0)",
}


def found(lines: Any, text: str) -> list[Any]:
    return [line for line in lines() if text in line.getMessage()]


@pytest.mark.parametrize("flavour", ["def", "async def"])
@pytest.mark.parametrize("way", WRITES)
async def test_what_a_handler_writes_bears_function_and_event(engine: Any, lines: Any, way: str, flavour: str) -> None:
    statement, level = WRITES[way]
    function = await engine.function(f"{flavour} handler(context, event):\n    {statement}", log_level="debug")
    await function.submit(Event(id="e-17"))
    line = (await engine.until(lambda: found(lines, "a word")))[0]
    assert (line.getMessage(), line.levelname, line.function, line.event_id) == ("a word", level, "f", "e-17")


@pytest.mark.parametrize("way", ANONYMOUS)
async def test_what_others_write_for_a_handler_bears_its_function(engine: Any, lines: Any, way: str) -> None:
    function = await engine.function(f"def handler(context, event):\n    {ANONYMOUS[way]}")
    await function.submit(Event(id="e-17"))
    # What has no newline may still get one: it is a line when the worker ends.
    await function.close()
    line = (await engine.until(lambda: found(lines, "a word")))[0]
    assert (line.getMessage(), line.function) == ("a word", "f")


async def test_levels_below_the_functions_own_are_not_sent(engine: Any, lines: Any) -> None:
    function = await engine.function(
        "def handler(context, event):\n    context.logger.info('low')\n    context.logger.warn('high')", log_level="warning"
    )
    await function.submit(Event())
    await engine.until(lambda: found(lines, "high"))
    assert not found(lines, "low")


async def test_a_caller_may_ask_for_the_log_of_its_event(engine: Any, answer: Any) -> None:
    function = await engine.function(
        """
        def handler(context, event):
            context.logger.info_with("seen", key=event.id)
            context.logger.debug("detail")
            return "ok"
        """,
        log_level="warning",
    )
    quiet = await answer(function.submit(Event(id="1")))
    told = await answer(function.submit(Event(id="2", trigger=Origin("http", "h"), headers={"X-Nuclio-Log-Level": "info"})))
    assert "X-Nuclio-Logs" not in quiet.headers
    (record,) = json.loads(told.headers["X-Nuclio-Logs"])
    assert (record["level"], record["message"], record["with"]) == ("info", "seen", {"key": "2"})


async def test_the_last_words_of_a_dying_worker_reach_the_log(engine: Any, answer: Any, lines: Any) -> None:
    function = await engine.function("""
        import ctypes, os
        def handler(context, event):
            print("printed last")
            context.logger.error("logged last")
            ctypes.CDLL(None).write(2, b"written last", 12)
            os._exit(1)
    """)
    assert (await answer(function.submit(Event(id="e9")))).code == "worker_died"
    for text in ("printed last", "logged last", "written last"):
        await engine.until(lambda text=text: found(lines, text), text)
    assert found(lines, "logged last")[0].event_id == "e9"


async def test_a_traceback_goes_to_the_log_and_only_its_message_to_the_caller(engine: Any, answer: Any, lines: Any) -> None:
    function = await engine.function("def handler(context, event):\n    raise ValueError('odd')")
    assert (await answer(function.submit(Event(id="e1")))).body == b"odd"
    line = (await engine.until(lambda: found(lines, "odd")))[0]
    assert "main.py" in line.fields["traceback"]
    assert line.event_id == "e1"


async def test_debug_gives_the_caller_the_traceback(engine: Any, answer: Any) -> None:
    function = await engine.function("def handler(context, event):\n    raise ValueError('odd')", debug=True)
    assert b"main.py" in (await answer(function.submit(Event()))).body


@pytest.mark.parametrize(
    "flood",
    [
        "for n in range(300_000): print('line', n)",
        "import os\n    for n in range(300): os.write(1, b'line\\n' * 1000)",
        "import subprocess; subprocess.run(['sh', '-c', 'yes line | head -c 8000000'])",
    ],
)
async def test_megabytes_of_output_are_throttled_and_counted(engine: Any, answer: Any, lines: Any, flood: str) -> None:
    function = await engine.function(f"def handler(context, event):\n    {flood}\n    return 'done'")
    assert (await answer(function.submit(Event()))).body == b"done"
    counted = (await engine.until(lambda: found(lines, "were dropped")))[0]
    assert counted.levelname == "WARNING"
    await engine.until(lambda: len(found(lines, "line")) + sum(line.args[0] for line in found(lines, "were dropped")) >= 300_000)
    assert len(found(lines, "line")) < 20_000


async def test_a_line_without_end_is_cut(engine: Any, answer: Any, lines: Any) -> None:
    function = await engine.function(f"def handler(context, event):\n    import os; os.write(1, b'x' * {LINE_MAX * 5 + 10})")
    await answer(function.submit(Event()))
    await function.close()
    await engine.until(lambda: sum(len(line.getMessage()) for line in found(lines, "xxxx")) == LINE_MAX * 5 + 10)
    assert max(len(line.getMessage()) for line in found(lines, "xxxx")) <= LINE_MAX
