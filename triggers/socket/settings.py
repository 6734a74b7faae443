"""`[triggers.NAME]` with `kind = "socket"`: what it may say, and what of it goes together."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated

from msgspec import Meta

from edgehost.framing import Framing
from edgehost.framing.notation import octets
from edgehost.intake import Dropping, IntakeSettings
from edgehost.manifest.model import Positive, Seconds
from edgehost.triggers.socket.address import Address, parse


class SocketSettings(IntakeSettings, frozen=True, forbid_unknown_fields=True):
    """`[triggers.NAME]` with `kind = "socket"`. `max_waiting` and `overflow` are about UDP alone: the others wait."""

    listen: str = ""
    """Where to be spoken to: udp://HOST:PORT, tcp://HOST:PORT, unix:///PATH or unixgram:///PATH; no host: every interface."""
    connect: str = ""
    """Or whom to hear: tcp://HOST:PORT or unix:///PATH of a server, again and again."""
    framing: Framing | None = None
    """How bytes become events; without it a stream is cut into lines, and a datagram is one event."""
    content_type: str = "application/octet-stream"
    write_answers: bool = False
    """Whether what the function answers goes back to who sent the event, framed alike, in the order of the events."""
    greeting: str = ""
    """With `connect`: sent first, as text or as 0x and hexadecimal."""
    max_connections: Positive = 64
    idle_timeout_s: Seconds | None = None
    """A connection nothing came from for so long is closed."""
    group: str = ""
    """With udp: a multicast group to join."""
    interface: str = ""
    """The network interface to join it on, as in eth0; empty: the system chooses."""
    datagram_limit_bytes: Annotated[int, Meta(ge=1, le=65535)] = 65535
    """A longer datagram is counted (`too_long`) and dropped."""
    receive_buffer_bytes: Positive | None = None
    """What the kernel keeps of UDP while the agent is busy; none: the system's own."""
    overflow: Dropping = "drop_oldest"

    def __post_init__(self) -> None:
        if bool(self.listen) == bool(self.connect):
            raise ValueError('give one of listen, as in "udp://:5514", and connect, as in "tcp://127.0.0.1:2947"')
        (self._check_listen if self.listen else self._check_connect)()
        octets("greeting", self.greeting)

    @property
    def address(self) -> Address:
        return parse("listen", self.listen) if self.listen else parse("connect", self.connect)

    def _check_listen(self) -> None:
        address = parse("listen", self.listen)
        if address.host and _ip(address.host) is None:
            raise ValueError(f"listen: {address.host!r} is a name; write an IP address of this machine, or leave the host out")
        if self.greeting:
            raise ValueError("greeting: goes with connect")
        if address.kind != "udp":
            self._refuse_all(("group", "interface", "receive_buffer_bytes"), "goes with listen = udp://…")
        if self.group:
            self._check_group(address)
        elif self.interface:
            raise ValueError("interface: goes with group")

    def _check_connect(self) -> None:
        address = parse("connect", self.connect)
        if address.datagrams:
            raise ValueError(f"connect: there is nothing to connect to at {address}; datagrams come by themselves: use listen")
        if not address.path and not (address.host and address.port):
            raise ValueError(
                f"connect: {self.connect!r} is not whole; write the server's host and port, as in tcp://gps.local:2947"
            )
        if not _is_name(address.host):
            raise ValueError(
                f"connect: {address.host!r} is not the name of a host; each part between its dots has 1 to 63 characters, "
                "as in gps.local"
            )
        self._refuse_all(("group", "interface", "receive_buffer_bytes"), "goes with listen = udp://…")

    def _refuse_all(self, keys: tuple[str, ...], why: str) -> None:
        for key in keys:
            if getattr(self, key):
                raise ValueError(f"{key}: {why}")

    def _check_group(self, address: Address) -> None:
        group, host = _ip(self.group), _ip(address.host)
        if group is None or not group.is_multicast:
            raise ValueError(f"group: {self.group!r} is not a multicast group; use 224.0.0.0 to 239.255.255.255, or ff00::/8")
        if host is not None and host.version != group.version:
            raise ValueError(f"group: {self.group} and {address} are of two kinds of IP; leave the host out")


def _is_name(host: str) -> bool:
    """Whether it can be looked up at all: the resolver takes names by their parts (RFC 1035, 2.3.4), in IDNA."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
