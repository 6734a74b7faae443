"""A function that misbehaves costs its own event and its own worker: it gets a clear error, the functions beside it go on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Agent, AgentStarter, BundleMaker

MIB = 1024 * 1024


@pytest.fixture
def beside_good(agent: AgentStarter, bundle: BundleMaker) -> Callable[..., Agent]:
    """`beside_good(code, manifest)`: an agent with the function `bad` and, beside it, the function `good`, an echo."""
    return lambda code, manifest="": agent(bundle("bad", code, manifest), bundle("good"))


def assert_good_goes_on(running: Agent) -> None:
    answered = running.invoke("good", b"still here")
    assert (answered.status, answered.body, answered.code) == (200, b"still here", "")
    running.wait_until_full("good")


HANDLER = "def handler(context, event):\n    return 1\n"

CANNOT_START = {
    "missing module": ("import not_a_module_anywhere", "not_a_module_anywhere"),
    "syntax error": ("def init_context(context:", "main.py"),
    "import raises": ("raise ValueError('no key for the licence')", "no key for the licence"),
    "import exits": ("import sys\nsys.exit(3)", "3"),
    "import kills": ("import os\nos._exit(3)", "3"),
    "init_context raises": ("def init_context(context):\n    raise RuntimeError('no model here')", "no model here"),
    "async init_context raises": ("async def init_context(context):\n    raise RuntimeError('no route')", "no route"),
    "init_context kills": ("import os\ndef init_context(context):\n    os.kill(os.getpid(), 9)", "SIGKILL"),
    "another name": ("def handle(context, event):\n    return 1", "handler"),
    "not callable": ("handler = 3", "handler"),
}


@pytest.mark.parametrize(("code", "told"), CANNOT_START.values(), ids=CANNOT_START.keys())
def test_a_function_that_cannot_start_says_why(beside_good: Callable[..., Agent], code: str, told: str) -> None:
    running = beside_good(code if "handle" in code else f"{code}\n{HANDLER}")
    status = running.wait_for_state("bad", "failed", "crash_loop")
    assert told in status.last_error
    assert status.workers_ready == 0
    running.wait_for_log("bad", told)
    refused = running.invoke("bad", b"anybody?")
    assert refused.code in ("not_ready", "no_worker"), refused
    assert refused.status == 503
    assert_good_goes_on(running)


def test_a_function_that_takes_too_long_to_start_fails_and_is_killed(beside_good: Callable[..., Agent]) -> None:
    running = beside_good("import time\ntime.sleep(1000)\ndef handler(c, e):\n    return 1\n", "start_timeout_s = 0.5\n")
    status = running.wait_for_state("bad", "failed", "crash_loop")
    assert "0.5" in status.last_error
    assert_good_goes_on(running)


SOMETIMES = """
import os, signal, sys, time, ctypes, subprocess
def handler(context, event):
    word = bytes(event.body).decode()
    if word.startswith("do "):
        exec(word[3:])
    return str(os.getpid())
"""
"""A function that does what it is told, so that one agent shows how an event went wrong and that the next is handled."""

COSTS_THE_WORKER = {
    "os._exit": ("os._exit(7)", "7"),
    "sys.exit": ("sys.exit(7)", "7"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "segmentation fault": ("ctypes.string_at(0)", "SIGSEGV"),
    "aborts": ("os.abort()", "SIGABRT"),
    "kills its group": ("os.killpg(0, signal.SIGKILL)", "SIGKILL"),
    "replaces itself": ("os.execv('/bin/true', ['true'])", ""),
}


@pytest.mark.parametrize(("word", "told"), COSTS_THE_WORKER.values(), ids=COSTS_THE_WORKER.keys())
def test_an_event_that_ends_its_worker_fails_and_a_new_worker_stands_in(
    beside_good: Callable[..., Agent], word: str, told: str
) -> None:
    running = beside_good(SOMETIMES, "workers = 2\n")
    failed = running.invoke("bad", f"do {word}".encode())
    assert (failed.status, failed.code) == (500, "worker_died"), failed
    assert told in failed.body.decode()
    running.wait_for_log("bad", "worker", told)
    status = running.wait_until_full("bad")
    assert (status.workers_ready, status.failed) == (2, 1)
    assert status.last_error != ""
    assert running.invoke("bad", b"hello").status == 200
    assert_good_goes_on(running)


COSTS_THE_EVENT = {
    "raises": ("raise ValueError('too cold')", "too cold"),
    "raises without a word": ("raise ValueError", "ValueError"),
    "raises a group": ("raise BaseException('beyond Exception')", "beyond Exception"),
    "is interrupted": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "recurses": ("f = lambda f: f(f); f(f)", "recursion"),
    "runs out of memory": ("bytearray(1 << 60)", "MemoryError"),
}


@pytest.mark.parametrize(("word", "told"), COSTS_THE_EVENT.values(), ids=COSTS_THE_EVENT.keys())
def test_an_event_that_raises_fails_and_the_worker_stays(beside_good: Callable[..., Agent], word: str, told: str) -> None:
    running = beside_good(SOMETIMES)
    before = running.invoke("bad", b"hello").body
    failed = running.invoke("bad", f"do {word}".encode())
    assert (failed.status, failed.code) == (500, "raised"), failed
    assert told in failed.body.decode()
    assert "Traceback" not in failed.body.decode(), "a traceback is for the log; debug = true sends it"
    running.wait_for_log("bad", told)
    assert running.invoke("bad", b"hello").body == before
    assert running.wait_until_full("bad").failed == 1
    assert_good_goes_on(running)


NEVER_RETURNS = {
    "sleeps": "time.sleep(10000)",
    "spins": "exec('while True: pass')",
    "ignores every signal it may": "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 3, 10, 12, 13, 14, 15)]; time.sleep(10000)",
    "stops itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    "holds the interpreter": "'a' * 40 + '!' and __import__('re').match('(a+)+$', 'a' * 40 + '!')",
}


@pytest.mark.parametrize("word", NEVER_RETURNS.values(), ids=NEVER_RETURNS.keys())
def test_an_event_that_never_ends_times_out_and_its_worker_is_replaced(beside_good: Callable[..., Agent], word: str) -> None:
    running = beside_good(SOMETIMES, "timeout_s = 0.5\n")
    before = running.invoke("bad", b"hello").body
    failed = running.invoke("bad", f"do {word}".encode())
    assert (failed.status, failed.code) == (408, "timeout"), failed
    assert "0.5" in failed.body.decode()
    running.wait_for_log("bad", "deadline")
    assert running.wait_until_full("bad").failed == 1
    after = running.invoke("bad", b"hello")
    assert after.status == 200
    assert after.body != before, "the worker that hung is still there"
    assert_good_goes_on(running)


def test_an_async_event_that_never_ends_times_out(beside_good: Callable[..., Agent]) -> None:
    code = """
    import asyncio
    async def handler(context, event):
        if event.body == b"hang":
            await asyncio.sleep(10000)
        return "ok"
    """
    running = beside_good(code, "timeout_s = 0.5\nconcurrency = 8\n")
    assert running.invoke("bad", b"hang").code == "timeout"
    running.wait_until_full("bad")
    assert running.invoke("bad", b"hello").body == b"ok"
    assert_good_goes_on(running)


def test_a_function_that_closes_every_descriptor_harms_itself_alone(beside_good: Callable[..., Agent]) -> None:
    running = beside_good(SOMETIMES)
    answered = running.invoke("bad", b"do os.closerange(0, 4096)")
    assert answered.code in ("", "worker_died"), answered
    assert running.invoke("bad", b"hello").status == 200
    running.wait_until_full("bad")
    assert_good_goes_on(running)


def test_a_worker_that_kills_what_forks_workers_stops_nobody_for_long(beside_good: Callable[..., Agent]) -> None:
    """Without a sandbox a worker may kill its own parent, which runs as the same user; that costs workers, never the agent."""
    running = beside_good(SOMETIMES, "[sandbox]\nenabled = false\n")
    failed = running.invoke("bad", b"do os.kill(os.getppid(), signal.SIGKILL); time.sleep(10000)")
    assert failed.code in ("worker_died", "timeout"), failed
    running.wait_until_full("bad")
    running.wait_until_full("good")
    assert running.invoke("bad", b"hello").status == 200
    assert_good_goes_on(running)


def test_a_function_that_dies_on_every_event_ends_in_a_crash_loop_and_is_told_so(beside_good: Callable[..., Agent]) -> None:
    running = beside_good("import os\ndef handler(context, event):\n    os._exit(9)\n")
    for _ in range(30):
        running.invoke("bad", b"x")
        status = running.functions()["bad"]
        if status.state == "crash_loop":
            break
    assert status.state == "crash_loop", status
    assert "exit status 9" in status.last_error
    running.wait_for_log("bad", "exit status 9", "again in")
    assert_good_goes_on(running)


JSON_CANNOT_HOLD = {
    "an object": ("{'it': Opaque()}", {"it": "<Opaque>"}),
    "bytes inside": ("{'raw': b'a'}", None),
    "not a number": ("{'it': float('nan'), 'most': float('inf')}", {"it": "NaN", "most": "Infinity"}),
    "a set": ("{'it': {7}}", None),
    "keys that are numbers": ("{1: 'one'}", {"1": "one"}),
}


@pytest.mark.parametrize(("value", "expected"), JSON_CANNOT_HOLD.values(), ids=JSON_CANNOT_HOLD.keys())
def test_what_json_cannot_hold_is_answered_in_words(beside_good: Callable[..., Agent], value: str, expected: object) -> None:
    code = f"""
    class Opaque:
        def __repr__(self):
            return "<Opaque>"
    def handler(context, event):
        return {value}
    """
    running = beside_good(code)
    answered = running.invoke("bad")
    assert (answered.status, answered.content_type, answered.code) == (200, "application/json", "")
    told = json.loads(answered.body)
    assert expected is None or told == expected
    assert_good_goes_on(running)


CANNOT_BE_ANSWERED = {
    "a circle": "d = {}; d['d'] = d; return d",
    "an object that cannot be shown": "return {'it': Hidden()}",
    "an answer that cannot be text": "return Hidden()",
    "a status that is none": "return (9999999999999999999999, 'x')",
    "a header that is none": "return context.Response(body='x', headers=7)",
    "text that is not Unicode": r"return '\ud800'",
    "a depth without end": "d = {}; top = d\n        for _ in range(100000): d['d'] = {}; d = d['d']\n        return top",
}


@pytest.mark.parametrize("body", CANNOT_BE_ANSWERED.values(), ids=CANNOT_BE_ANSWERED.keys())
def test_an_answer_that_cannot_be_sent_never_costs_the_worker(beside_good: Callable[..., Agent], body: str) -> None:
    """Whether such an answer fails or is put in words, the event is answered and the same worker takes the next one."""
    code = f"""
    import os
    class Hidden:
        def __repr__(self):
            raise ValueError("not for your eyes")
        __str__ = __repr__
    def handler(context, event):
        if event.body == b"pid":
            return str(os.getpid())
        {body}
    """
    running = beside_good(code)
    before = running.invoke("bad", b"pid").body
    answered = running.invoke("bad", b"now")
    if answered.code:
        assert (answered.status, answered.code) == (500, "raised"), answered
        assert answered.body, "a failure says why"
    assert running.invoke("bad", b"pid").body == before
    running.wait_until_full("bad")
    assert_good_goes_on(running)


WRITES_MUCH = {
    "lines": "for n in range(100000): print('x' * 79)",
    "one line": "print('y' * (8 << 20))",
    "to the descriptor": "for n in range(128): os.write(1, b'z' * 65536)",
    "to standard error": "sys.stderr.write('e' * (8 << 20))",
    "a child": "subprocess.run(['head', '-c', '8000000', '/dev/zero'])",
    "through logging": "for n in range(20000): context.logger.info('w' * 400)",
}


@pytest.mark.parametrize("word", WRITES_MUCH.values(), ids=WRITES_MUCH.keys())
def test_megabytes_of_output_neither_block_the_function_nor_fill_the_agent(beside_good: Callable[..., Agent], word: str) -> None:
    running = beside_good(SOMETIMES)
    before = running.resident_bytes()
    for _ in range(3):
        answered = running.invoke("bad", f"do {word}".encode())
        assert answered.status == 200, answered
    assert_good_goes_on(running)
    running.wait_until_full("bad")
    assert running.resident_bytes() - before < 64 * MIB, "output piles up in the agent"


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1, 5 * MIB, 40 * MIB])
def test_a_large_answer_arrives_whole(beside_good: Callable[..., Agent], size: int) -> None:
    code = f"""
    import random
    def handler(context, event):
        return random.Random(7).randbytes({size})
    """
    running = beside_good(code, '[triggers.web]\nkind = "http"\n')
    expected = random.Random(7).randbytes(size)
    assert running.invoke("bad").body == expected
    assert running.request("GET", "/bad").body == expected
    running.wait_until_full("bad")
    assert_good_goes_on(running)


def test_a_stream_that_breaks_off_says_so(beside_good: Callable[..., Agent]) -> None:
    code = """
    def handler(context, event):
        yield "the beginning"
        raise ValueError("no end")
    """
    running = beside_good(code)
    answered = running.invoke("bad")
    assert answered.broke_off or answered.code == "raised", "a broken stream looked whole"
    running.wait_for_log("bad", "no end")
    running.wait_until_full("bad")
    assert_good_goes_on(running)
