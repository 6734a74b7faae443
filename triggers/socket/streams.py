"""Connections: each cut into frames of its own, read only while the function has room, and answered in order.

    open                 frames are offered; after `idle_timeout` without a byte it is closed
    ended by the peer    what it sent is offered, what it asked is answered, then it is closed
    broken off           what it sent is offered; what had begun of a frame is dropped
Must not know whether we listened for it or made it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from edgehost.event import Response
from edgehost.feed import Feed
from edgehost.framing import Line, make_codec
from edgehost.plugin import TriggerHost
from edgehost.triggers.socket.address import spell_peer
from edgehost.triggers.socket.settings import SocketSettings

_CLOSE_S = 2.0
"""How long a peer may take to read the last answers."""
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A peer that vanished without a word is noticed after a minute."""


class Owner(Protocol):
    """Who has the connections."""

    settings: SocketSettings
    host: TriggerHost

    def full(self) -> bool: ...

    def offer(self, body: bytes, peer: str, answered: Callable[[Response], None] | None) -> None: ...

    def opened(self, connection: Connection) -> bool:
        """False: it is one too many."""

    def ended(self, connection: Connection) -> None:
        """Nothing of it waits any more."""


class Connection(asyncio.Protocol):
    """One connection, from its opening until the last of its frames has been offered and answered."""

    def __init__(self, owner: Owner) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why it is over, once it is."""
        self.heard = asyncio.Event()
        self._owner = owner
        self._codec = make_codec(owner.settings.framing or Line())
        self._feed = Feed(self._codec, owner.host.counts, self._blocked, self._offer, self._read)
        self._transport: asyncio.Transport
        self._peer = ""
        self._stuffed = False
        """The peer does not read its answers; it may wait with its questions."""
        self._unanswered = 0
        self._answered_all = asyncio.Event()
        self._answered_all.set()
        self._ending: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._told = False
        self._why = "it closed the connection"
        self._last_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            self._peer = spell_peer("unix", sock.getsockname() or sock.getpeername())
        else:
            self._peer = spell_peer("tcp", sock.getpeername())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if not self._owner.opened(self):
            transport.abort()
            return
        self._last_s = asyncio.get_running_loop().time()
        self._look_if_idle()

    def data_received(self, data: bytes) -> None:
        self._last_s = asyncio.get_running_loop().time()
        self.heard.set()
        self._feed.data(data)

    def eof_received(self) -> bool:
        self._begin_end()
        return True  # it may still read its answers

    def connection_lost(self, error: Exception | None) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if error is not None:
            self._why = f"the connection broke off ({getattr(error, 'strerror', None) or error})"
        if not self.lost.done():
            self.lost.set_result(self._why)
        self.end()

    def pause_writing(self) -> None:
        self._stuffed = True

    def resume_writing(self) -> None:
        self._stuffed = False
        self._feed.room()

    def room(self) -> None:
        """The intake has room again."""
        self._feed.room()

    def greet(self, greeting: bytes) -> None:
        self._transport.write(greeting)

    def end(self) -> None:
        """Take no more from it; close it when all it sent has been answered. What had begun of a frame is dropped."""
        if self._ending is None:
            self._codec.reset()
        self._begin_end()

    def _begin_end(self) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end())

    async def until_ended(self) -> None:
        assert self._ending is not None
        await asyncio.wait({self._ending})

    async def _end(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()
        if self._stuffed:
            self._transport.abort()  # it reads no answers, so there is nobody to wait for
            self._stuffed = False
        await self._feed.finish()
        await self._answered_all.wait()
        self._transport.close()
        try:
            await asyncio.wait_for(asyncio.shield(self.lost), _CLOSE_S)
        except asyncio.TimeoutError:
            self._transport.abort()
        self._owner.ended(self)

    def _blocked(self) -> bool:
        return self._stuffed or self._owner.full()

    def _read(self, on: bool) -> None:
        if not self._transport.is_closing() and self._ending is None:
            (self._transport.resume_reading if on else self._transport.pause_reading)()

    def _offer(self, frame: bytes) -> None:
        if self._owner.settings.write_answers:
            self._unanswered += 1
            self._answered_all.clear()
            self._owner.offer(frame, self._peer, self._answered)
        else:
            self._owner.offer(frame, self._peer, None)

    def _answered(self, response: Response) -> None:
        self._unanswered -= 1
        if not self._unanswered:
            self._answered_all.set()
        if response.failed or not response.body:
            return
        try:
            frame = self._codec.encode(response.body)
            if self._transport.is_closing():
                raise ValueError("the connection is closed")
        except ValueError as error:
            self._owner.host.counts["unanswered"] += 1
            if not self._told:
                self._told = True
                self._owner.host.log.warning("an answer to %s is lost: %s (told once for each connection)", self._peer, error)
        else:
            self._transport.write(frame)

    def _look_if_idle(self) -> None:
        limit_s = self._owner.settings.idle_timeout_s
        if limit_s is None:
            return
        loop = asyncio.get_running_loop()
        left_s = self._last_s + limit_s - loop.time()
        if self._blocked() or self._unanswered:
            left_s = limit_s  # it is we who are slow
        if left_s <= 0:
            self._owner.host.counts["idle"] += 1
            self._why = f"nothing came for {limit_s:g} s"
            self.end()
        else:
            self._idle = loop.call_later(left_s, self._look_if_idle)
