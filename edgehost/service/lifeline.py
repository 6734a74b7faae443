"""The agent's line to systemd: says when it is ready, how it is, that it lives, that it reads its configuration again, and
that it ends. Knows functions only by their Health; must not know what a reload or a stop does.

    phase      begins with   every look says                              ends with
    starting   `begin`       that the start goes on, and how far it is    `ready`
    running    `ready`       a sign of life if there is one, and changes  `reloading`, `stopping`
    reloading  `reloading`   a sign of life, and that the reload goes on  `ready`, `stopping`
    stopping   `stopping`    that the stop goes on                        `close`

A look is a timer of the agent's loop: where the loop hangs there is none, and systemd acts (WatchdogSec=, TimeoutStartSec=).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Literal

from edgehost.service.health import Health, Watch, in_one_line
from edgehost.service.notify import Notifier, Supervision, extend_timeout, reloading, status

log = logging.getLogger("edgehost.service")

_LOOK_S = 2.0
_GOES_ON_S = 30.0
"""For how long one look vouches that a start, a reload or a stop still goes on."""


class Lifeline:
    """One per agent. Without a service manager every method does nothing."""

    def __init__(
        self,
        supervision: Supervision,
        look_at: Callable[[], Sequence[Health]],
        troubles: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`troubles` gives what is wrong with the agent itself, one line each."""
        self._notifier = Notifier(supervision.address)
        self._watchdog = supervision.watchdog_s > 0
        self._look_at = look_at
        self._troubles = troubles
        self._every_s = min(_LOOK_S, supervision.watchdog_s / 3) if self._watchdog else _LOOK_S
        self._supervised = bool(supervision.address)
        self._phase: Literal["starting", "running", "reloading", "stopping"] = "starting"
        self._watch = Watch()
        self._stuck: tuple[str, ...] = ()
        self._note = ""
        self._told = ""
        self._next: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The agent starts: looks begin."""
        if self._supervised:
            self._notifier.send(extend_timeout(_GOES_ON_S), status("is starting"))
            self._next = asyncio.get_running_loop().call_later(self._every_s, self._look)

    def ready(self, note: str = "") -> None:
        """Every function was started, or is known not to start; or the configuration has been read again. `note` is said with
        the status until the next `ready`.
        """
        self._phase, self._note = "running", note
        self._told = self._line()
        self._notifier.send("READY=1", status(self._told))

    def reloading(self) -> None:
        """The configuration is being read again."""
        self._phase = "reloading"
        self._notifier.send(*reloading(), status("reads its configuration again"))

    def stopping(self) -> None:
        """The orderly end has begun."""
        self._phase = "stopping"
        self._notifier.send("STOPPING=1", status("is stopping"))

    def close(self) -> None:
        """No more looks, no more words."""
        if self._next is not None:
            self._next.cancel()
        self._notifier.close()

    def _look(self) -> None:
        self._next = asyncio.get_running_loop().call_later(self._every_s, self._look)
        if self._phase != "running":
            self._notifier.send(extend_timeout(_GOES_ON_S))
        if self._phase != "starting" and self._watchdog and self._lives():
            self._notifier.beat()
        if self._phase in ("starting", "running") and (line := self._line()) != self._told:
            self._told = line
            self._notifier.send(status(line))

    def _line(self) -> str:
        line = in_one_line(self._look_at(), self._troubles())
        return f"{line}; {self._note}" if self._note else line

    def _lives(self) -> bool:
        """Says in the log when it stops to be so, and when it is again."""
        stuck = self._watch.alive(self._look_at())
        if stuck != self._stuck:
            self._stuck = stuck
            if stuck:
                log.critical(
                    "events of %s are long past their deadline and nobody has ended them: no sign of life is given any more, and "
                    "systemd restarts the agent",
                    ", ".join(stuck),
                )
            else:
                log.warning("no event is past its deadline any more: signs of life are given again")
        return not stuck
