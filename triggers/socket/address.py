"""Addresses as a manifest writes them, and the bound sockets they stand for. Must not know what is heard there."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, Literal, cast

from msgspec import Struct

from edgehost.errors import TriggerError

Kind = Literal["udp", "tcp", "unix", "unixgram"]
FORM = "use udp://HOST:PORT, tcp://HOST:PORT, unix:///PATH or unixgram:///PATH"
_SHAPE = re.compile(r"(udp|tcp)://(\[[0-9A-Fa-f:.%\w]+\]|[^\[\]:/\s\0]*):(\d{1,5})|(unix|unixgram)://(/[^\0]+)", re.ASCII)
_PATH_BYTES = 107
_MODE = 0o660


class Address(Struct, frozen=True):
    """One address. `host` is empty for every interface; `path` is a Unix socket's."""

    kind: Kind
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def datagrams(self) -> bool:
        return self.kind in ("udp", "unixgram")

    def __str__(self) -> str:
        if self.path:
            return f"{self.kind}://{self.path}"
        return f"{self.kind}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse(key: str, text: str) -> Address:
    """Raises ValueError, naming `key`, for text that is no address."""
    found = _SHAPE.fullmatch(text)
    if found is None or int(found[3] or 0) > 65535:
        raise ValueError(f"{key}: {text!r} is not an address; {FORM}")
    kind, host, port, unix, path = found.groups()
    if unix and len(os.fsencode(path)) > _PATH_BYTES:
        raise ValueError(f"{key}: {path} is longer than the {_PATH_BYTES} bytes a Unix socket may have; use a shorter path")
    named = cast("Kind", unix or kind)
    return Address(named, path=path) if unix else Address(named, host.strip("[]"), int(port))


def bind(address: Address, *, several: bool = False) -> socket.socket:
    """A bound, non-blocking socket. `several`: other programs may bind it too, as listeners of a multicast group do.
    Raises TriggerError that says what to do."""
    family, where = _place(address)
    sock = socket.socket(family, socket.SOCK_DGRAM if address.datagrams else socket.SOCK_STREAM)
    try:
        if address.kind == "tcp" or several:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address.host != ""))
        if address.path:
            _remove_stale(address, sock.type)
        sock.bind(where)
        if address.path:
            Path(address.path).chmod(_MODE)
    except OSError as error:
        sock.close()
        raise TriggerError(f"{address} {_reason(error, address)}") from error
    sock.setblocking(False)
    return sock


def _place(address: Address) -> tuple[socket.AddressFamily, Any]:
    if address.path:
        return socket.AF_UNIX, address.path
    if not address.host:  # every interface; with IPv6 one socket hears both
        return (socket.AF_INET6, ("::", address.port)) if socket.has_dualstack_ipv6() else (socket.AF_INET, ("", address.port))
    if isinstance(ip_address(address.host), IPv6Address):
        return socket.AF_INET6, socket.getaddrinfo(address.host, address.port, flags=socket.AI_NUMERICHOST)[0][4]
    return socket.AF_INET, (address.host, address.port)


def spell_peer(kind: Kind, peer: Any) -> str:
    """Where something came from, as an URL; a Unix socket without a name has none."""
    if not isinstance(peer, tuple):
        return f"{kind}://{os.fsdecode(peer)}" if peer else ""
    host, port = str(peer[0]).removeprefix("::ffff:"), int(peer[1])
    return str(Address(kind, host, port))


def _remove_stale(address: Address, kind: socket.SocketKind) -> None:
    """A socket file outlives its process; only one that nobody answers may go."""
    try:
        if not stat.S_ISSOCK(Path(address.path).lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.setblocking(False)
            probe.connect(address.path)
    except ConnectionRefusedError:
        Path(address.path).unlink(missing_ok=True)
    except OSError:
        return


def _reason(error: OSError, address: Address) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"is taken{_taker(address)}; stop what listens there, or choose another address"
    if error.errno == errno.EACCES:
        return "is not allowed for this user; choose a port above 1023 or a folder this user may write"
    if error.errno == errno.EADDRNOTAVAIL:
        return "is not an address of this machine now; leave the host out to hear every interface"
    if error.errno == errno.ENOENT:
        return "cannot be made: its folder is not there; make it"
    return f"cannot be bound: {error.strerror}"


def _taker(address: Address) -> str:
    """` by mosquitto (process 812)`; empty if it cannot be told."""
    import psutil

    if address.path:
        return ""
    try:
        connections = psutil.net_connections(address.kind)
        pid = next(c.pid for c in connections if c.pid and c.laddr and c.laddr.port == address.port and not c.raddr)
        return f" by {psutil.Process(pid).name()} (process {pid})"
    except (psutil.Error, OSError, StopIteration):
        return ""
