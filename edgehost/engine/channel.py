"""The agent's end of one worker's channel: frames out, coalesced per loop turn; frames in, and read ahead in shared memory.

Knows bytes, descriptors and positions in the stream; must not know what an event is worth or where it goes next.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from edgehost.engine import kernel
from edgehost.engine.arena import (
    EVENTS_AT,
    OUTBOX_AT,
    RECALLED,
    RECALLED_AT,
    SIZE,
    STATE,
    TAKEN,
    Extents,
    create,
    map_other,
    map_own,
    seal_written,
)
from edgehost.engine.frames import HEADER, HEADER_SIZE, PAYLOAD_MAX
from edgehost.engine.receiving import ReceiveBuffer

_SEND_BUFFER = 256 * 1024

Receive = Callable[[int, int, int, int, memoryview], None]
"""Called for every frame: kind, call, body offset, body size, payload (valid only during the call)."""
Broken = Callable[[str], None]
"""Called once when the channel is of no use any more: '' if the worker closed it, else what was wrong with its frames."""


@dataclass(frozen=True)
class Progress:
    """What a worker says of itself in shared memory."""

    begun: int
    peak_s: float
    busy_s: float


class Channel:
    """One worker's socket and shared memory. `receive` gets every frame; `received` is called once after each burst of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive, received: Callable[[], None], broken: Broken) -> None:
        self._loop = loop
        self._receive = receive
        self._received = received
        self._broken = broken
        self._usable = True
        with ExitStack() as undo:
            self._make(undo)
            undo.pop_all()
        self._bodies = memoryview(self._outbound)
        self._extents = Extents(EVENTS_AT, SIZE)
        self._taken = 0
        self._buffer = ReceiveBuffer()
        self._position = 0  # bytes of the worker's stream taken so far, by socket or by reading ahead
        self._ahead = 0  # of those, bytes the socket will still deliver: to be dropped
        self._out: list[bytes] = []
        self._unsent: bytes | memoryview = b""
        self._scheduled = False
        self._blocked = False  # the socket takes no more now: the loop tells when it does
        loop.add_reader(self._sock.fileno(), self._readable)

    def _make(self, undo: ExitStack) -> None:
        """Sockets and shared memory. Raises OSError where the agent has no more descriptors or memory."""
        self._sock, self._theirs = map(undo.enter_context, socket.socketpair())
        self._sock.setblocking(False)
        for end in (self._sock, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        memfds = []
        for name in ("edgehost-inbound", "edgehost-outbound"):
            memfds.append(create(name))
            undo.callback(os.close, memfds[-1])
        self._memfds: tuple[int, ...] = tuple(memfds)
        self._inbound: mmap.mmap = undo.enter_context(map_own(memfds[0]))
        self._outbound: mmap.mmap = undo.enter_context(map_other(memfds[1]))
        seal_written(memfds[0])

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
        if not self._unsent:
            self._unsent = b"".join(self._out)
            self._out.clear()
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            self._break("")
            return
        self._unsent = b"" if sent == len(self._unsent) else memoryview(self._unsent)[sent:]
        blocked = bool(self._unsent or self._out)
        if blocked != self._blocked:
            self._blocked = blocked
            if blocked:
                self._loop.add_writer(self._sock.fileno(), self._flush)
            else:
                self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        try:
            if self._read() == 0:
                self._break("")
        except Exception as error:  # what a worker writes, or a child that has its socket, must never stop the agent
            self._break(f"{type(error).__name__}: {error}")

    def _break(self, reason: str) -> None:
        if self._usable and self._sock.fileno() >= 0:
            self._usable = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._broken(reason)

    def _read(self) -> int:
        """One recv and the frames it completed; gives the bytes received, 0 at the end of the stream, -1 if there were none."""
        buffer = self._buffer
        room = buffer.room()
        try:
            count = self._sock.recv_into(room)
        except BlockingIOError:
            return -1
        except ConnectionError:
            return 0
        known = min(self._ahead, count)
        if known:
            # These bytes were read in shared memory already.
            self._ahead -= known
            room[: count - known] = room[known:count]
        if count > known:
            self._take(count - known)
        return count

    def _take(self, count: int) -> None:
        """Count bytes have come into the buffer: hand over the frames they complete."""
        buffer = self._buffer
        self._position += count
        buffer.have += count
        buffer.keep(*self._split(buffer.view, buffer.have))
        self._received()

    def _split(self, view: memoryview, have: int) -> tuple[int, int]:
        """Hand over every whole frame; gives where the first broken one starts, and how many bytes it needs in all."""
        at = 0
        unpack, receive = HEADER.unpack_from, self._receive
        while have - at >= HEADER_SIZE:
            size, call, body_at, body_size, _, kind = unpack(view, at)
            start = at + HEADER_SIZE
            end = start + size
            if end > have:
                if size > PAYLOAD_MAX:
                    raise ValueError(f"a frame of {size} bytes")
                return at, HEADER_SIZE + size
            receive(kind, call, body_at, body_size, view[start:end])
            at = end
        return at, 0

    def progress(self) -> Progress:
        """How far the worker is, read from shared memory."""
        begun, _, _, peak_s, busy_s = STATE.unpack_from(self._outbound, 0)
        return Progress(begun, peak_s, busy_s)

    def recall(self, first: int, last: int) -> bool:
        """Forbid the worker to begin the events of ordinals `first` to `last`. When this returns True, each of them has either
        been begun, as `progress` shows now, or never will be; False if the kernel cannot promise that.

        The worker writes `begun`, then reads this range; we write the range, then read `begun`. A barrier on both sides between
        the two makes it impossible that neither sees the other; if both do, the worker gives the event back as SKIPPED.
        """
        RECALLED.pack_into(self._inbound, RECALLED_AT, first, last)
        if kernel.barrier():
            return True
        RECALLED.pack_into(self._inbound, RECALLED_AT, 0, 0)
        return False

    def read_ahead(self) -> bool:
        """Take the frames that lie in the worker's outbox unsent; True if there were any.

        `sent` and `end` are positions in the worker's stream, so what is new begins at our own position in it. The worker may be
        flushing at this moment; if `sent` moved meanwhile, the copy is worthless and the socket brings the bytes anyway.
        """
        _, sent, end, _, _ = STATE.unpack_from(self._outbound, 0)
        start = self._position
        if not sent <= start < end:
            return False
        kernel.barrier()  # an Arm core may show `end` before the bytes that were written before it
        data = bytes(self._bodies[OUTBOX_AT + start - sent : OUTBOX_AT + end - sent])
        if STATE.unpack_from(self._outbound, 0)[1] != sent:
            return False
        self._buffer.require(len(data))
        self._buffer.room()[: len(data)] = data
        self._ahead += len(data)
        self._take(len(data))
        return True

    def catch_up(self) -> None:
        """Take everything the worker has finished by now, sent or not."""
        try:
            while self._usable and self._read() > 0:
                pass
            self.read_ahead()
        except Exception as error:
            self._break(f"{type(error).__name__}: {error}")

    def drain(self) -> None:
        """The worker is dead: take everything it sent, then everything it had finished but not sent."""
        try:
            while self._read() > 0:
                pass
            self._ahead = 0
            self.read_ahead()
        except Exception as error:
            self._break(f"{type(error).__name__}: {error}")

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
