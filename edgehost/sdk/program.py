"""What a runtime gives the worker loop: the loaded function, ready to be called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _none() -> None:
    return None


@dataclass(frozen=True)
class Program:
    """`handle(event)` gives a result, a coroutine, a generator or an async generator; with a batch `event` is a list.

    `context`: the object whose `deadline` (monotonic seconds), `trigger` and `debug` the worker keeps current.
    `asynchronous`: handle may return awaitables, so the worker runs an event loop and may hold `concurrency` events at once.
    `on_start` is called once, before the first event; what it returns is awaited on that loop (an async `init_context`).
    `on_drain` and `on_terminate` return None or a coroutine; the worker calls each once, after the event in hand.
    """

    handle: Callable[[Any], Any]
    context: Any
    asynchronous: bool = False
    on_start: Callable[[], Any] = _none
    on_drain: Callable[[], Any] = _none
    on_terminate: Callable[[], Any] = _none
