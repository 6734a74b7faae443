"""Files that refuse what the kernel's PWM refuses (drivers/pwm/core.c, pwm_apply): no machine of ours has the hardware."""

from __future__ import annotations

import errno
from pathlib import Path

MOST_PERIOD_NS = 1_000_000_000
"""Of the chip that these files stand for."""


def make(folder: Path, period: str = "0", duty: str = "0", enable: str = "0", polarity: str = "normal") -> Path:
    """A channel, exported."""
    folder.mkdir(parents=True)
    for name, value in {"period": period, "duty_cycle": duty, "enable": enable, "polarity": polarity}.items():
        (folder / name).write_text(value)
    return folder


def put(path: Path, value: str) -> None:
    """What edgehost.gpio.pwm writes with, as the kernel would take it."""
    folder = path.parent
    state = {name: (folder / name).read_text().strip() for name in ("enable", "duty_cycle", "period")}
    running = state["enable"] == "1"
    state[path.name] = value
    period_ns = int(state["period"])
    if not 0 < period_ns <= MOST_PERIOD_NS or int(state["duty_cycle"]) > period_ns:
        raise OSError(errno.EINVAL, "Invalid argument")
    if path.name == "polarity" and running:
        raise OSError(errno.EBUSY, "Device or resource busy")
    path.write_text(value)
