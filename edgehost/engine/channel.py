"""The agent's end of one worker's channel: frames out, coalesced per loop turn; frames in, and read ahead in shared memory.

Knows bytes, descriptors and positions in the stream; must not know what an event is worth or where it goes next.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from edgehost.engine.arena import EVENTS_AT, OUTBOX_AT, SIZE, STATE, TAKEN, Extents, create, map_other, map_own, seal_written
from edgehost.engine.frames import HEADER, HEADER_SIZE

_BUFFER = 256 * 1024

Receive = Callable[[int, int, int, int, memoryview], None]
"""Called for every frame: kind, call, body offset, body size, payload (valid only during the call)."""


@dataclass(frozen=True)
class Progress:
    """What a worker says of itself in shared memory."""

    begun: int
    peak_s: float
    busy_s: float


class Channel:
    """One worker's socket and shared memory. `receive` gets every frame; `received` is called once after each burst of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive, received: Callable[[], None]) -> None:
        self._loop = loop
        self._receive = receive
        self._received = received
        self._sock, self._theirs = socket.socketpair()
        self._sock.setblocking(False)
        for end in (self._sock, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._memfds: tuple[int, ...] = (create("edgehost-inbound"), create("edgehost-outbound"))
        self._inbound: mmap.mmap = map_own(self._memfds[0])
        self._outbound: mmap.mmap = map_other(self._memfds[1])
        self._bodies = memoryview(self._outbound)
        seal_written(self._memfds[0])
        self._extents = Extents(EVENTS_AT, SIZE)
        self._taken = 0
        self._buffer = bytearray(_BUFFER)
        self._have = 0
        self._position = 0  # bytes of the worker's stream taken so far, by socket or by reading ahead
        self._ahead = 0  # of those, bytes the socket will still deliver: to be dropped
        self._out: list[bytes] = []
        self._unsent = b""
        self._scheduled = False
        loop.add_reader(self._sock.fileno(), self._readable)

    def descriptors(self, output: int) -> list[int]:
        """What the worker is born with: channel, inbound, outbound, output pipe."""
        return [self._theirs.fileno(), *self._memfds, output]

    def handed_over(self) -> None:
        """The worker has its copies: close ours."""
        self._theirs.close()
        for descriptor in self._memfds:
            os.close(descriptor)
        self._memfds = ()

    def lend(self, body: bytes) -> int:
        """Put a body into the arena; its offset, or 0 if there is no room. Give it back with `reclaim` after the answer."""
        at = self._extents.take(len(body))
        if at:
            self._inbound[at : at + len(body)] = body
        return at

    def reclaim(self, at: int) -> None:
        """The worker has no more use for the body lent at `at`."""
        self._extents.release(at)

    def take_body(self, at: int, size: int) -> bytes:
        """Copy an answer's body out of the worker's arena and let the worker have the room again."""
        body = bytes(self._bodies[at : at + size])
        self._taken += 1
        TAKEN.pack_into(self._inbound, 0, self._taken)
        return body

    def send(self, frame: bytes) -> None:
        """Queue a frame; everything queued in one turn of the loop leaves in one system call."""
        self._out.append(frame)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def send_now(self, frame: bytes) -> None:
        """Send a frame to a worker that waits for one; the turn's other frames follow it together."""
        if self._scheduled or self._unsent:
            self.send(frame)
        else:
            self._out.append(frame)
            self._flush()

    def _flush(self) -> None:
        self._scheduled = False
        if self._sock.fileno() < 0:
            return
        waiting = bool(self._unsent)
        data = self._unsent + b"".join(self._out)
        self._out.clear()
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            return  # the worker is gone: its end is told by its zygote
        self._unsent = data[sent:]
        if self._unsent and not waiting:
            self._loop.add_writer(self._sock.fileno(), self._flush)
        elif waiting and not self._unsent:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        if self._read() == 0:
            self._loop.remove_reader(self._sock.fileno())

    def _read(self) -> int:
        """One recv and the frames it completed; gives the bytes received, 0 at the end of the stream, -1 if there were none."""
        with memoryview(self._buffer) as view:
            try:
                count = self._sock.recv_into(view[self._have :])
            except BlockingIOError:
                return -1
            except ConnectionError:
                count = 0
            if not count:
                return 0
            fresh = count
            if self._ahead:
                # These bytes were read in shared memory already.
                known = min(self._ahead, count)
                self._ahead -= known
                fresh = count - known
                view[self._have : self._have + fresh] = bytes(view[self._have + known : self._have + count])
            self._position += fresh
            self._have += fresh
            at, needed = self._split(view, self._have)
        self._keep(at, needed)
        if fresh:
            self._received()
        return count

    def _split(self, view: memoryview, have: int) -> tuple[int, int]:
        """Hand over every whole frame; gives where the first broken one starts, and how many bytes it needs in all."""
        at = 0
        unpack, receive = HEADER.unpack_from, self._receive
        while have - at >= HEADER_SIZE:
            size, call, body_at, body_size, _, kind = unpack(view, at)
            start = at + HEADER_SIZE
            end = start + size
            if end > have:
                return at, HEADER_SIZE + size
            receive(kind, call, body_at, body_size, view[start:end])
            at = end
        return at, 0

    def _keep(self, at: int, needed: int) -> None:
        """Move a broken frame to the front, and give it a buffer it fits in."""
        rest = self._have - at
        if at and rest:
            self._buffer[0:rest] = self._buffer[at : self._have]
        self._have = rest
        if needed > len(self._buffer):
            self._buffer.extend(bytes(needed - len(self._buffer)))
        elif not rest and len(self._buffer) > _BUFFER:
            self._buffer = bytearray(_BUFFER)

    def progress(self) -> Progress:
        """How far the worker is, read from shared memory."""
        begun, _, _, peak_s, busy_s = STATE.unpack_from(self._outbound, 0)
        return Progress(begun, peak_s, busy_s)

    def read_ahead(self) -> bool:
        """Take the frames that lie in the worker's outbox unsent; True if there were any.

        `sent` and `end` are positions in the worker's stream, so what is new begins at our own position in it. The worker may be
        flushing at this moment; if `sent` moved meanwhile, the copy is worthless and the socket brings the bytes anyway.
        """
        _, sent, end, _, _ = STATE.unpack_from(self._outbound, 0)
        start = self._position
        if not sent <= start < end:
            return False
        data = bytes(self._bodies[OUTBOX_AT + start - sent : OUTBOX_AT + end - sent])
        if STATE.unpack_from(self._outbound, 0)[1] != sent:
            return False
        if len(data) > len(self._buffer) - self._have:
            self._buffer.extend(bytes(len(data)))
        with memoryview(self._buffer) as view:
            view[self._have : self._have + len(data)] = data
            self._have += len(data)
            self._position += len(data)
            self._ahead += len(data)
            at, needed = self._split(view, self._have)
        self._keep(at, needed)
        self._received()
        return True

    def drain(self) -> None:
        """The worker is dead: take everything it sent, then everything it had finished but not sent."""
        while self._read() > 0:
            pass
        self._ahead = 0
        self.read_ahead()

    def close(self) -> None:
        """Give everything back: descriptors, mappings."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        if self._memfds:
            self.handed_over()
        self._bodies.release()
        self._inbound.close()
        self._outbound.close()
