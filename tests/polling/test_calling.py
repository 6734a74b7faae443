"""Blocking calls in threads of their own."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from edgehost.polling import in_thread


async def test_a_result_and_an_error_come_back() -> None:
    assert await in_thread(lambda: threading.current_thread().name, "poll a/b") == "poll a/b"
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0, "poll a/b")


async def test_the_thread_ends_with_its_call_and_nobody_need_wait() -> None:
    go = threading.Event()
    waiting = in_thread(lambda: go.wait(20), "poll left")
    waiting.cancel()
    go.set()
    deadline = time.monotonic() + 10
    while any(thread.name == "poll left" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_loop_that_is_gone_is_no_trouble() -> None:
    go, threads = threading.Event(), []

    def call() -> bool:
        threads.append(threading.current_thread())
        return go.wait(20)

    async def leave() -> None:
        in_thread(call, "poll orphan")

    asyncio.run(leave())
    go.set()
    threads[0].join(20)
    assert not threads[0].is_alive()
