"""How the agent is, in one line for people, and whether it is alive for the watchdog. Pure: values in, decisions out."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

GRACE_S = 10.0
"""How long an event may stay unanswered after its deadline. The engine ends such an event within milliseconds; on a machine that
swaps or was suspended that takes longer, and is no reason for a restart."""
_MOST_CHARACTERS = 400


class Health(Struct, frozen=True):
    """One function as the service looks at it."""

    name: str
    state: str
    """As in edgehost.control.protocol.FunctionState, or that of a trigger in trouble."""
    reason: str = ""
    """Why it does not run, or what one of its triggers lacks."""
    overdue_s: float = 0.0
    """How long ago the deadline of an unanswered event passed; 0 if none has."""


def in_one_line(functions: Sequence[Health], troubles: Sequence[str] = ()) -> str:
    """`4 of 4 functions run`; `3 of 4 functions run; thermostat failed: ImportError: no module named 'rtd'`. `troubles` are those
    of the agent as a whole (its disk), which come first.
    """
    running = sum(each.state in ("ready", "degraded") for each in functions)
    head = f"{running} of {len(functions)} functions run" if functions else "no functions: name folders in [agent] functions"
    troubled = (each for each in functions if each.reason or each.state != "ready")
    line = "; ".join([head, *troubles, *(_trouble(each) for each in troubled)])
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 3] + "..."


def _trouble(each: Health) -> str:
    said = f"{each.name} {each.state.replace('_', ' ')}"
    return f"{said}: {' '.join(each.reason.split())}" if each.reason else said


class Watch:
    """Decides at every look whether the agent may say that it is alive. `alive` is asked in a turn of the agent's loop, so a loop
    that hangs never comes to ask.

    An event whose deadline is over by more than GRACE_S means that the engine does not end what it promised to end. It must be
    seen in two looks: after a long stop of the whole process (SIGSTOP, a suspended machine) the first look may come before the
    engine's own.
    """

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._suspects: frozenset[str] = frozenset()

    def alive(self, functions: Sequence[Health]) -> tuple[str, ...]:
        """The functions whose events the engine has left behind; the agent is alive if there is none."""
        late = frozenset(each.name for each in functions if each.overdue_s > self._grace_s)
        stuck = late & self._suspects
        self._suspects = late
        return tuple(sorted(stuck))
