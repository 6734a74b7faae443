"""Asks the running kernel for features the engine uses. Each question is one system call that changes nothing."""

from __future__ import annotations

import ctypes
import os

_ADJTIMEX_BYTES = 512
"""More than struct timex has on any machine (208 bytes on 64-bit ones)."""
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""


def has_memfd() -> bool:
    """memfd_create(2)."""
    try:
        os.close(os.memfd_create("edgehost-check", os.MFD_CLOEXEC))
    except OSError:
        return False
    return True


def has_pidfd() -> bool:
    """pidfd_open(2)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def clock_synchronised() -> bool | None:
    """What the kernel knows of its clock (adjtimex(2) asking only); None if it does not tell."""
    library = ctypes.CDLL(None, use_errno=True)
    state = library.adjtimex(ctypes.create_string_buffer(_ADJTIMEX_BYTES))
    return None if state < 0 else state != _TIME_ERROR
