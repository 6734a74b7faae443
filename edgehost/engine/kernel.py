"""The few Linux calls Python has no function for, and how what a worker left behind is found and ended.

Knows processes; must not know what a worker does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "armv7l": 389, "armv6l": 389}.get(os.uname().machine)
_MEMBARRIER_GLOBAL_EXPEDITED = 2
_MEMBARRIER_REGISTER = 4
_CAPABILITY_VERSION_3 = 0x20080522
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int | bytes) -> None:
    """prctl(2) with one argument. Raises OSError."""
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def keep_capabilities(kept: int) -> None:
    """Give up, for good, every capability that is no bit of `kept` (capset(2), capabilities(7)). Raises OSError.

    Without any there is no system call: a service's filter may forbid it.
    """
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    have = ctypes.create_string_buffer(24)
    if _libc.capget(header, have) != 0:
        raise OSError(ctypes.get_errno(), "capget failed")
    effective, permitted, _, effective_high, permitted_high, _ = struct.unpack("=6I", have.raw)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    if not (permitted & ~low or permitted_high & ~high):
        return
    rest = struct.pack("=6I", effective & low, permitted & low, 0, effective_high & high, permitted_high & high, 0)
    if _libc.capset(header, rest) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")


def keep_freed_memory() -> None:
    """Let malloc keep up to 4 MiB it has freed (mallopt(3)): a 100 KB body else costs 25 page faults, each time."""
    mallopt = getattr(_libc, "mallopt", None)  # glibc alone has it
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 4 * 1024 * 1024)


def accept_barriers() -> None:
    """Let other processes' `barrier()` reach this one (membarrier(2), since Linux 4.16)."""
    if _MEMBARRIER is not None:
        _libc.syscall(_MEMBARRIER, _MEMBARRIER_REGISTER, 0, 0)


def barrier() -> bool:
    """A full memory barrier on every processor that runs a process which accepts them. What we wrote before, they see from
    now on;
    what they wrote before, we see. False where the kernel has no such call.
    """
    return _MEMBARRIER is not None and _libc.syscall(_MEMBARRIER, _MEMBARRIER_GLOBAL_EXPEDITED, 0, 0) == 0


def become_subreaper() -> None:
    """Orphans among our descendants become our children, however often they forked (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def children() -> set[int]:
    """Process ids of this process's direct children, zombies included."""
    own = os.getpid()
    try:
        found: set[int] = set()
        for task in Path("/proc/self/task").iterdir():
            found.update(int(pid) for pid in (task / "children").read_text().split())
        return found
    except OSError:
        # A kernel without CONFIG_PROC_CHILDREN: look at every process instead.
        return {pid for pid in _processes() if _parent(pid) == own}


def end_orphans(keep: set[int]) -> int:
    """Kill and reap every child not in `keep`, and what they leave behind, until there is none. Gives how many."""
    ended = 0
    while orphans := children() - keep:
        for pid in orphans:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass
            ended += 1
    return ended


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0
