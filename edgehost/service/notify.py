"""What a service tells systemd: datagrams to the socket in $NOTIFY_SOCKET (sd_notify(3)), and what systemd wants of it.

Sends and never waits. Must not know when something is worth telling. Where no service manager listens, nothing happens.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from collections.abc import Mapping, MutableMapping

from msgspec import Struct

_LATER = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ECONNREFUSED, errno.ENOENT, errno.EINTR}
"""The manager is slow, or begins anew (`systemctl daemon-reexec`): the same datagram may go through in a moment."""
_MOST_UNSENT = 32
"""A manager that is away for longer than this many changes hears of the newest."""


class Supervision(Struct, frozen=True):
    """What the service manager asked for at the start of this process."""

    address: str = ""
    """A path or, after `@`, a name in the abstract name space; empty: nobody listens."""
    watchdog_s: float = 0.0
    """A sign of life is due in less than this; 0: none is wanted."""


def take_supervision(environ: MutableMapping[str, str], pid: int) -> Supervision:
    """What the environment says of this process, taken out of it: a child that sent `READY=1` or felt watched would be wrong."""
    found = read_supervision(environ, pid)
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        environ.pop(name, None)
    return found


def read_supervision(environ: Mapping[str, str], pid: int) -> Supervision:
    """As sd_watchdog_enabled(3) has it: WATCHDOG_PID, where given, says whom the watchdog is for."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):  # vsock: and what may come after it is not for a service on this machine
        return Supervision()
    wanted = environ.get("WATCHDOG_USEC", "")
    mine = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
    watchdog_s = int(wanted) / 1e6 if mine and wanted.isascii() and wanted.isdecimal() else 0.0
    return Supervision(address, watchdog_s)


class Notifier:
    """The way to the service manager. What it cannot take now is kept, in order, for the next `send`."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        self._unsent: deque[bytes] = deque(maxlen=_MOST_UNSENT)
        if self._socket is not None:
            self._socket.setblocking(False)

    def send(self, *assignments: str) -> None:
        """`send("READY=1", status("all is well"))`: one datagram, after those that are still to be sent."""
        if self._socket is None:
            return
        if assignments:
            self._unsent.append("\n".join(assignments).encode())
        while self._unsent and self._sent(self._unsent[0]):
            self._unsent.popleft()

    def beat(self) -> None:
        """A sign of life, unless something older could not be sent: an old sign of life says nothing."""
        self.send()
        if self._socket is not None and not self._unsent:
            self._sent(b"WATCHDOG=1")

    def _sent(self, datagram: bytes) -> bool:
        """False if the same datagram is to be tried again. One that never will go through is dropped."""
        assert self._socket is not None
        try:
            self._socket.sendto(datagram, self._address)
        except OSError as error:
            return error.errno not in _LATER
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def status(text: str) -> str:
    """The line `systemctl status` shows. One line: a line break would begin another assignment."""
    return "STATUS=" + " ".join(text.split())


def reloading() -> tuple[str, str]:
    """The configuration is read again, from now on; `READY=1` ends it (sd_notify(3), MONOTONIC_USEC)."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def extend_timeout(seconds: float) -> str:
    """The start, or the stop, takes this much longer: without another such line by then it has hung."""
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"
