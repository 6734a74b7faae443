"""Makes the local socket in the file system: its folder, its rights, and what to do about one that an earlier agent left behind.

Blocking calls, made once while the agent starts. Knows of the protocol only `ping`, to say which agent is in the way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgehost.control import protocol
from edgehost.control.address import belongs_to_another
from edgehost.errors import ControlError

FOLDER_MODE = 0o750
SOCKET_MODE = 0o660
MOST_PATH_BYTES = 107
"""unix(7): sun_path has 108 bytes with the closing zero."""
PROBE_S = 1.0


def listen(address: Path) -> socket.socket:
    """Listen at `address`, for owner and group only. Raises ControlError if it can't be made or an agent answers there."""
    if len(os.fsencode(address)) > MOST_PATH_BYTES:
        raise ControlError(f"socket {address}: a Unix socket's path has at most {MOST_PATH_BYTES} bytes; give a shorter --socket")
    try:
        _make_folder(address.parent)
        if belongs_to_another(address, os.getuid()):
            raise ControlError(f"socket folder {address.parent} belongs to another user; remove it or give --socket")
        with _locked(address.parent):
            _remove_stale(address)
            return _bind(address)
    except OSError as error:
        raise ControlError(f"socket {address}: {error.strerror or error}; name one this user may make with --socket") from error


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(FOLDER_MODE)  # mkdir's own mode is subject to the umask


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two agents that start at once take turns, so neither removes the socket the other has just bound."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(address: Path) -> None:
    try:
        mode = address.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"socket {address}: a file that is not a socket stands there; move it away or give --socket")
    living = _who_answers(address)
    if living:
        raise ControlError(f"{living} already answers at {address}; stop it, or give this one its own --socket")
    address.unlink()


def _who_answers(address: Path) -> str:
    """The agent that listens at `address` in words; empty if nobody listens there any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(PROBE_S)
        try:
            peer.connect(os.fspath(address))
        except OSError as error:
            # Only a refused connection proves that no process holds the socket; a full backlog or missing rights do not.
            return "" if error.errno in (errno.ECONNREFUSED, errno.ENOENT) else f"a process ({error.strerror or error})"
        try:
            peer.sendall(protocol.encode(protocol.Ping()))
            with peer.makefile("rb") as stream:
                reply = protocol.decode_reply(stream.read(protocol.payload_size(stream.read(protocol.HEADER.size))))
        except (OSError, ControlError, struct.error):
            return "a process that does not speak edgehost's protocol"
    if isinstance(reply, protocol.Pong):
        return f"an agent (pid {reply.pid}, edgehost {reply.version})"
    return "an agent"


def _bind(address: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.bind(os.fspath(address))
        # Before listen() every connect is refused, so there is no moment at which the socket is open to others.
        address.chmod(SOCKET_MODE)
        server.listen()
        server.setblocking(False)
    except BaseException:
        server.close()
        raise
    return server
