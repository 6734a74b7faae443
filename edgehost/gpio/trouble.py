"""What keeps a line from being used, in words that say what to do. `state` tells a loss that mends itself from a mistake."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Literal

from edgehost.errors import TriggerError
from edgehost.gpio.line import Driver, Place

State = Literal["degraded", "failed"]

_MOST_NAMES = 8


class GpioError(TriggerError):
    """A line cannot be used now. `degraded`: it is taken or away and comes back; `failed`: a person must mend something first."""

    def __init__(self, message: str, state: State = "degraded") -> None:
        super().__init__(message)
        self.state: State = state


def refusal(error: OSError, line: str, place: Place | None, driver: Driver) -> GpioError:
    """The kernel's answer to a request for `line`."""
    if error.errno in (errno.EACCES, errno.EPERM):
        where = place.chip if place is not None else error.filename or "/dev/gpiochip*"
        return GpioError(
            f"{line}: no permission to open {where}; add the agent's user to the group gpio (`usermod -aG gpio USER`) and start "
            "the agent anew; where the group does not exist a udev rule must make it",
            "failed",
        )
    if error.errno == errno.EBUSY and place is not None:
        consumer = _consumer(place, driver)
        advice = "an overlay or a driver holds it: free it in the device tree" if consumer == "the kernel" else "stop that"
        return GpioError(f"{line} is in use by {consumer!r} ({place.chip} line {place.offset}); {advice}, or use another line")
    if error.errno in (errno.ENODEV, errno.ENXIO, errno.ENOENT) and place is not None:
        return gone(line, place)
    if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, 524):  # 524: the kernel's own ENOTSUPP
        return GpioError(
            f"{line}: the chip cannot do what is asked of the line ({error.strerror}); try pull = 'as-is', drive = 'push-pull', "
            "no debounce, or a line that has interrupts",
            "failed",
        )
    return GpioError(f"{line}: {error.strerror or error}")


def gone(line: str, place: Place) -> GpioError:
    """The line's chip has gone."""
    return GpioError(f"{line}: its chip {place.chip} has gone; plug it in again")


def unknown(line: str, what: str, known: Iterable[str], advice: str = "") -> GpioError:
    """There is no such chip or line. Names the nearest of `known`, or the first few."""
    from difflib import get_close_matches  # memory that an agent without mistakes need not hold

    names = sorted({name for name in known if name})
    folded = {name.lower(): name for name in names}
    near = [folded[name] for name in get_close_matches(line.lower(), folded, _MOST_NAMES, 0.5)] or names[:_MOST_NAMES]
    more = " ..." if len(names) > len(near) else ""
    there = f"there are {', '.join(near)}{more}" if near else "there are none"
    return GpioError(f"{line}: {what}; {there}{f'; {advice}' if advice else ''}", "failed")


def _consumer(place: Place, driver: Driver) -> str:
    try:
        return driver.line(place).consumer or "another program"
    except OSError:
        return "another program"
