"""Asks the running kernel for features the engine uses. Each question is one system call that changes nothing."""

from __future__ import annotations

import ctypes
import os

_ADJTIMEX_BYTES = 512
"""More than struct timex has on any machine (208 bytes on 64-bit ones)."""
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""
_LANDLOCK_CREATE_RULESET = 444
"""The same number on every architecture (Linux 5.13)."""
_LANDLOCK_VERSION = 1


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


def landlock_version() -> int:
    """The ABI's version (landlock_create_ruleset(2) with LANDLOCK_CREATE_RULESET_VERSION); 0 if the kernel has none."""
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    found = library.syscall(
        ctypes.c_long(_LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(_LANDLOCK_VERSION)
    )
    return max(0, int(found))


def clock_synchronised() -> bool | None:
    """What the kernel knows of its clock (adjtimex(2) asking only); None if it does not tell."""
    library = ctypes.CDLL(None, use_errno=True)
    state = library.adjtimex(ctypes.create_string_buffer(_ADJTIMEX_BYTES))
    return None if state < 0 else state != _TIME_ERROR
