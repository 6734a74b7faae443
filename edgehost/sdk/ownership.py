"""Who may use the link to the agent: one thread of one process.

A function may start threads and fork children; both inherit everything a worker has, and one frame they wrote into the worker's
channel would garble it. So whatever leads there asks an `Owner` first.
"""

from __future__ import annotations

import os
from threading import get_ident

_forks = 0


class Owner:
    """The thread that made it, in the process that made it."""

    def __init__(self) -> None:
        self._thread = get_ident()
        self._forks = _forks

    def here(self) -> bool:
        """True when called from that thread; False from any other, and in a forked child (where thread numbers repeat)."""
        return get_ident() == self._thread and _forks == self._forks

    def require(self, what: str) -> None:
        """Raise RuntimeError unless `here()`; `what` names the call, `context.publish` say."""
        if not self.here():
            raise RuntimeError(f"{what} was called outside the handler's own thread; call it from the handler")


def _count_fork() -> None:
    global _forks
    _forks += 1


# A counter rather than os.getpid() in `here`: a log line should not cost a system call more.
os.register_at_fork(after_in_child=_count_fork)
