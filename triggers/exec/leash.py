"""Leash: a process group that the kernel kills when the agent goes, however it goes. A pipe, and no process that watches.

    made      both ends are the agent's; a child inherits `held`
    put on    the group has that end alone, the agent the other one
    cut       by `cut`, or because the agent is no more: the group gets SIGKILL, as F_SETOWN and F_SETSIG ask (fcntl(2))

PR_SET_PDEATHSIG reaches the child alone, and nothing of what it has started. This does, as long as one of the group still has the
end it inherited: a group whose every process has closed the descriptors it was given is not reached. Nothing is ever written.
"""

from __future__ import annotations

import fcntl
import os
import signal


class Leash:
    """One group's. Raises OSError where no descriptors are left."""

    def __init__(self) -> None:
        self.held, self._end = os.pipe2(os.O_CLOEXEC)

    def put_on(self, group: int) -> None:
        """The group has inherited `held`. What is set here is of the open pipe, not of this descriptor of it."""
        fcntl.fcntl(self.held, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(self.held, fcntl.F_SETOWN, -group)
        fcntl.fcntl(self.held, fcntl.F_SETFL, os.O_ASYNC)
        self._let_go()

    def cut(self) -> None:
        """Kill what is left of the group."""
        if self.held >= 0:
            self._let_go()
        os.close(self._end)

    def _let_go(self) -> None:
        os.close(self.held)
        self.held = -1
