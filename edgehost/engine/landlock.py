"""Landlock (landlock(7)): take from the calling process, and all it starts, the files, TCP ports and signals no rule gives it.

Three system calls by ctypes. Not py-landlock: it refuses armv7, gives a rule for a folder to a file (EINVAL), and looks for libc
with programs of its own, in every worker. Knows rights and rules; must not know functions or why something is allowed.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from functools import cache

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture (Linux 5.13)."""
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_MAKE_DEVICES = 1 << 6 | 1 << 11
_BIND_TCP, _CONNECT_TCP = 1, 2
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2

READ = READ_FILE | READ_DIR
RUN = READ | EXECUTE
WRITE = (1 << 15) - 1 & ~_MAKE_DEVICES
"""Everything in a folder but making device nodes: reading and running too."""
DEVICE = READ_FILE | WRITE_FILE | TRUNCATE | _IOCTL_DEV
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | _IOCTL_DEV
"""What a rule for something that is no folder may hold; more is EINVAL."""

NETWORK_ABI, DEVICE_ABI, SCOPE_ABI = 4, 5, 6
"""The first versions that know TCP ports, ioctl(2) on devices, and signals and abstract sockets."""


@cache
def version() -> int:
    """The kernel's Landlock ABI; 0 if it has none or was booted without."""
    return max(0, _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION)))


def files_handled(abi: int) -> int:
    """The rights over files a kernel of this ABI can take away."""
    return (1 << 13) - 1 | (_REFER if abi >= 2 else 0) | (TRUNCATE if abi >= 3 else 0) | (_IOCTL_DEV if abi >= DEVICE_ABI else 0)


def restrict(files: Iterable[tuple[str, int]], ports: Iterable[int] | None) -> None:
    """From now on: files by these rules (path, rights), TCP by these ports (None: all), signals only among ourselves.

    Rights this kernel does not know are left as they are; a path that is gone gives nothing. Needs no_new_privs. Raises OSError.
    """
    abi = version()
    handled = files_handled(abi)
    network = _BIND_TCP | _CONNECT_TCP if ports is not None and abi >= NETWORK_ABI else 0
    scope = _ABSTRACT_SOCKETS | _SIGNALS if abi >= SCOPE_ABI else 0
    attributes = struct.pack("=QQQ", handled, network, scope)
    ruleset = _checked(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path, rights in files:
            _add_path(ruleset, path, rights & handled)
        for port in ports or () if network else ():
            _add(ruleset, _NET_PORT, struct.pack("=QQ", network, port))
        _checked(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _add_path(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # gone since the rules were made: nothing to allow
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        if rights:
            _add(ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place))
    finally:
        os.close(place)


def _add(ruleset: int, kind: int, rule: bytes) -> None:
    _checked(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(kind), rule, ctypes.c_uint32(0))


def _checked(number: int, *arguments: object) -> int:
    result = _call(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock's system call {number} failed: {os.strerror(code)}")
    return result


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(number: int, *arguments: object) -> int:
    return int(_libc.syscall(ctypes.c_long(number), *arguments))
