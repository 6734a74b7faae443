"""What a function starts never outlives its worker, and what the agent starts never outlives the agent, however each ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import AgentStarter, BundleMaker

FORKS = '''
import json, os, signal, subprocess, time

def stays():
    """What a daemon does: ignore what it can, close what it has, and sleep."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.closerange(0, 256)
    time.sleep(10000)

def plain():
    pid = os.fork()
    if pid == 0:
        stays()
    return pid

def program():
    return subprocess.Popen(["sleep", "10000"]).pid

def daemon():
    """Forked twice with a session of its own: nobody's child any more (daemon(7))."""
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

def handler(context, event):
    word = bytes(event.body).decode()
    if word == "fork":
        return json.dumps([plain(), program(), daemon(), daemon()])
    if word == "exit":
        os._exit(1)
    if word == "hang":
        time.sleep(10000)
    return "ok"
'''


@pytest.mark.parametrize(("word", "code"), [("exit", "worker_died"), ("hang", "timeout")])
def test_children_and_daemons_end_with_their_worker(
    agent: AgentStarter, bundle: BundleMaker, gone: Callable[[int], None], word: str, code: str
) -> None:
    running = agent(bundle("forks", FORKS, "timeout_s = 1\n"), bundle("good"))
    children = json.loads(running.invoke("forks", b"fork").body)
    assert len(set(children)) == 4
    assert running.invoke("forks", word.encode()).code == code
    for child in children:
        gone(child)
    running.wait_until_full("forks")
    assert running.invoke("forks", b"again").body == b"ok"
    assert running.invoke("good", b"x").body == b"x"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_agent(
    agent: AgentStarter, bundle: BundleMaker, gone: Callable[[int], None], how: signal.Signals
) -> None:
    running = agent(bundle("forks", FORKS, "workers = 2\n"), bundle("good"))
    children = json.loads(running.invoke("forks", b"fork").body)
    family = running.children()
    assert family >= set(children)
    code = running.stop(how)
    assert code == (-signal.SIGKILL if how == signal.SIGKILL else 0), running.log
    for process in family | set(children):
        gone(process)


def test_the_agent_ends_while_a_handler_hangs(agent: AgentStarter, bundle: BundleMaker) -> None:
    """An event in hand is waited for, but not beyond the function's drain time-out."""
    code = "import os, time\ndef handler(context, event):\n    os.write(1, b'in hand\\n')\n    time.sleep(10000)\n"
    running = agent(bundle("hangs", code, "drain_timeout_s = 0.5\n"))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(running.invoke, "hangs")
        running.wait_for_log("hangs", "in hand")
        assert running.stop(signal.SIGTERM) == 0, running.log


def test_the_agent_holds_no_more_descriptors_after_many_dead_workers(agent: AgentStarter, bundle: BundleMaker) -> None:
    running = agent(bundle("forks", FORKS, "workers = 2\n"), bundle("good"))
    running.invoke("forks", b"exit")
    running.wait_until_full("forks")
    before = psutil.Process(running.process.pid).num_fds()
    for _ in range(5):
        running.invoke("forks", b"exit")
        running.wait_until_full("forks")
    running.wait(lambda: psutil.Process(running.process.pid).num_fds() <= before, f"{before} descriptors again")


def test_the_agent_ends_while_a_function_still_loads(agent: AgentStarter, bundle: BundleMaker) -> None:
    """`start_timeout_s` may be minutes, for a large model; nobody who stops the agent waits for it."""
    loads = "import os, time\nos.write(1, b'loading\\n')\ntime.sleep(10000)\n"
    running = agent(bundle("loads", loads, "start_timeout_s = 600\n"), until="loading")
    assert running.functions()["loads"].state == "starting"
    assert running.stop(signal.SIGTERM) == 0, running.log
