"""Datagrams of one bound socket: each is an event, or so many as its framing says.

    udp         cannot wait: what the function has no room for waits in the intake, or is dropped there by `overflow`
    unixgram    can: it is not read while the intake is full, and the sender waits in its own send
    closed      hears no more, whatever room there is; what has been heard can still be answered
Counts `too_long`, and what the kernel had no room for (`kernel_dropped`, SO_RXQ_OVFL).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from edgehost.errors import TriggerError
from edgehost.event import Response
from edgehost.framing import Codec, make_codec
from edgehost.plugin import TriggerHost
from edgehost.triggers.socket.address import Address, bind, spell_peer
from edgehost.triggers.socket.settings import SocketSettings

_SO_RXQ_OVFL = 40
_SO_RCVBUFFORCE = 33
_AT_ONCE = 64
"""Datagrams between two turns of the loop."""
_ANCILLARY_BYTES = socket.CMSG_SPACE(4)

Offer = Callable[[bytes, str, "Callable[[Response], None] | None"], None]


class Datagrams:
    """One socket. `offer(body, peer, answered)` makes the event; `full()` says whether to wait, where that is possible."""

    def __init__(self, settings: SocketSettings, host: TriggerHost, offer: Offer, full: Callable[[], bool]) -> None:
        address = _to_bind(settings)
        self._settings = settings
        self._kind = address.kind
        self._path = address.path
        self._host = host
        self._offer = offer
        self._full = full if address.kind == "unixgram" else lambda: False
        self._codec: Codec | None = make_codec(settings.framing) if settings.framing is not None else None
        self._loop = asyncio.get_running_loop()
        self._lost_before = host.counts["kernel_dropped"]
        self._socket = bind(address, several=bool(settings.group))
        try:
            self._set_up()
        except OSError as error:
            self._socket.close()
            raise TriggerError(
                f"{settings.group or address} cannot be heard: {error.strerror or error}; mend group or interface"
            ) from error
        self.address = str(address) if address.path else spell_peer(address.kind, self._socket.getsockname())
        self._reading = False
        self._closed = False
        self.room()

    def room(self) -> None:
        """Read, unless there is no room."""
        reading = not self._closed and not self._full()
        if reading != self._reading:
            self._reading = reading
            if reading:
                self._loop.add_reader(self._socket.fileno(), self._readable)
            else:
                self._loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Hear no more; what has been heard can still be answered until `end`."""
        self._closed = True
        self.room()

    def end(self) -> None:
        self.close()  # a reader left behind would be that of the next socket with this number
        self._socket.close()
        if self._path:
            Path(self._path).unlink(missing_ok=True)

    def _set_up(self) -> None:
        if self._kind != "udp":
            return
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RXQ_OVFL, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if self._settings.receive_buffer_bytes is not None:
            self._ask_for_room(self._settings.receive_buffer_bytes)
        if self._settings.group:
            self._join()

    def _ask_for_room(self, size_bytes: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size_bytes)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)
        given = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it (socket(7))
        if given < size_bytes:
            self._host.log.warning("receive_buffer: the kernel gives %d bytes of %d; raise net.core.rmem_max", given, size_bytes)

    def _join(self) -> None:
        settings = self._settings
        index = socket.if_nametoindex(settings.interface) if settings.interface else 0
        group = ip_address(settings.group)
        if isinstance(group, IPv6Address):
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group.packed + struct.pack("@I", index))
        else:  # struct ip_mreqn
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group.packed + struct.pack("@4si", b"", index))

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            if self._full():
                self.room()
                return
            try:
                data, ancillary, flags, peer = self._socket.recvmsg(self._settings.datagram_limit_bytes, _ANCILLARY_BYTES)
            except OSError:  # nothing more; or a datagram we sent was refused, which says nothing of those that come
                return
            for _level, kind, value in ancillary:
                if kind == _SO_RXQ_OVFL:
                    self._host.counts["kernel_dropped"] = self._lost_before + struct.unpack("@I", value)[0]
            if flags & socket.MSG_TRUNC:
                self._host.counts["too_long"] += 1
            else:
                self._heard(data, peer)

    def _heard(self, data: bytes, peer: Any) -> None:
        answered = self._answerer(peer) if self._settings.write_answers else None
        url = spell_peer(self._kind, peer)
        for frame in [data] if self._codec is None else self._cut(self._codec, data):
            self._offer(frame, url, answered)

    def _cut(self, codec: Codec, data: bytes) -> list[bytes]:
        frames = [*codec.feed(data), *codec.finish()]
        self._host.counts.update(codec.counts)
        codec.counts.clear()
        return frames

    def _answerer(self, peer: Any) -> Callable[[Response], None]:
        def answer(response: Response) -> None:
            if response.failed or not response.body:
                return
            try:
                if not peer:
                    raise ValueError("the sender has no address")
                self._socket.sendto(self._codec.encode(response.body) if self._codec else response.body, peer)
            except (OSError, ValueError) as error:
                self._host.counts["unanswered"] += 1
                self._host.log.warning("an answer to %s is lost: %s", spell_peer(self._kind, peer) or "a sender", error)

        return answer


def _to_bind(settings: SocketSettings) -> Address:
    """A group of IPv4 needs a socket of IPv4."""
    address = settings.address
    return Address(address.kind, "0.0.0.0", address.port) if "." in settings.group and not address.host else address
