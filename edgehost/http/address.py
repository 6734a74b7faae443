"""`[http].listen`: from its text to a bound, listening socket. A failure is a TriggerError that says what to do."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from edgehost.errors import TriggerError

_FORM = "use HOST:PORT (127.0.0.1:8080, [::1]:8080, 0.0.0.0:8080) or unix:/path/to/socket"
BACKLOG = 512
SOCKET_MODE = 0o660


def bind(listen: str) -> socket.socket:
    """A listening, non-blocking socket at `listen`. Port 0 takes any free one; read it back with `spell`."""
    if listen.startswith("unix:"):
        return _bind_unix(listen, listen[len("unix:") :])
    host, port = split(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise TriggerError(f"[http].listen: no address is known for {host!r} ({error}); {_FORM}") from error
    # With protocol 0 instead of IPPROTO_TCP, asyncio leaves Nagle's algorithm on: an answer in two writes then takes 44 ms.
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _listen(sock, address, listen)


def split(listen: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`."""
    host, colon, digits = listen.rpartition(":")
    if not colon or not host or not (digits.isascii() and digits.isdigit()) or int(digits) > 65535:
        raise TriggerError(f"[http].listen: {listen!r} is not an address; {_FORM}")
    return host.strip("[]"), int(digits)


def spell(sock: socket.socket, listen: str) -> str:
    """The real address of a bound socket, in the form of `[http].listen`."""
    if sock.family == socket.AF_UNIX:
        return listen
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


def _bind_unix(listen: str, path: str) -> socket.socket:
    if not path.startswith("/"):
        raise TriggerError(f"[http].listen: {listen!r} needs an absolute path, unix:/run/edgehost/http.sock")
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening = _listen(sock, path, listen)
    Path(path).chmod(SOCKET_MODE)
    return listening


def _remove_stale(path: str) -> None:
    """A socket file outlives its process; only one that nobody answers may go."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        Path(path).unlink(missing_ok=True)
    except OSError:
        return


def _listen(sock: socket.socket, address: object, listen: str) -> socket.socket:
    try:
        sock.bind(address)  # type: ignore[arg-type]
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise TriggerError(f"[http].listen: {listen} {_reason(error)}") from error
    sock.setblocking(False)
    return sock


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is in use; stop what listens there, or choose another address (port 0 takes any free one)"
    if error.errno == errno.EACCES:
        return "is not allowed for this user; choose a port above 1023 or a folder you may write"
    if error.errno == errno.EADDRNOTAVAIL:
        return "is not an address of this machine; use 127.0.0.1, or 0.0.0.0 for every interface"
    return f"cannot be used: {os.strerror(error.errno or 0)}; {_FORM}"
