"""The worker's end of its channel: whole frames in, answers out through the outbox. Runs in the worker only.

Knows the layout of frames and shared memory; must not know what a handler is. One thread uses it.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
from collections import deque
from time import monotonic
from typing import Any

import msgspec

from edgehost.engine import frames
from edgehost.engine.arena import ANSWERS_AT, OUTBOX_AT, OUTBOX_SIZE, RECALLED, RECALLED_AT, SIZE, STATE, TAKEN, Extents
from edgehost.engine.frames import HEADER, HEADER_SIZE, INLINE_MAX, encode
from edgehost.engine.receiving import ReceiveBuffer
from edgehost.event import Response
from edgehost.sdk.event import Event

_decode_event = msgspec.msgpack.Decoder(Event).decode
_decode_events = msgspec.msgpack.Decoder(list[Event]).decode

Item = tuple[int, int, float, Any]
"""kind, call, deadline, event (a list of them for BATCH; None for DRAIN and STOP)."""


class AgentGoneError(Exception):
    """The agent closed the channel or died: this worker has nobody to work for."""


class Port:
    """Frames to and from the agent.

    `inbox` holds what is to be worked on, in order. `asked` is the call of this worker's own that waits for its answer, and
    `responses` holds that answer; `windows` are the chunks each open stream may still send, `cancelled` the streams nobody reads.
    """

    def __init__(self, sock: socket.socket, inbound: mmap.mmap, outbound: mmap.mmap, view: bool) -> None:
        self._sock = sock
        self._inbound = inbound
        self._outbound = outbound
        self._bodies = memoryview(inbound)
        self._box = memoryview(outbound)[OUTBOX_AT : OUTBOX_AT + OUTBOX_SIZE]
        self._view = view
        self._buffer = ReceiveBuffer()
        self._fill = 0
        self._sent = 0
        self._extents = Extents(ANSWERS_AT, SIZE)
        self._lent: deque[int] = deque()
        self._released = 0
        self._flushed_at = monotonic()
        self.begun = 0
        self.busy_s = 0.0
        self.peak_s = 0.0
        self.inbox: deque[Item] = deque()
        self.asked = 0
        self.responses: dict[int, Response] = {}
        self.windows: dict[int, int] = {}
        self.cancelled: set[int] = set()

    def disown(self) -> None:
        """In a child that the handler forked: the channel is the worker's alone. What the child writes to it goes nowhere, and
        its next read or flush raises AgentGoneError, so a child that returns from the handler ends.
        """
        ours, theirs = socket.socketpair()
        theirs.close()
        os.dup2(ours.fileno(), self._sock.fileno())
        ours.close()
        self._outbound = mmap.mmap(-1, SIZE)
        self._box = memoryview(self._outbound)[OUTBOX_AT : OUTBOX_AT + OUTBOX_SIZE]

    def fileno(self) -> int:
        """The channel's descriptor, for a loop to watch."""
        return self._sock.fileno()

    def receive(self, timeout_s: float | None = None) -> bool:
        """Wait for bytes and sort every whole frame into its place. False if `timeout_s` passed first (0: do not wait); raises
        AgentGoneError at the end.
        """
        if timeout_s is not None and timeout_s > 0 and not select.select([self._sock], [], [], timeout_s)[0]:
            return False
        buffer = self._buffer
        try:
            count = self._sock.recv_into(buffer.room(), 0, 0 if timeout_s is None else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionError:
            count = 0
        if not count:
            raise AgentGoneError
        buffer.have += count
        buffer.keep(*self._sort(buffer.view, buffer.have))
        return True

    def _sort(self, view: memoryview, have: int) -> tuple[int, int]:
        """Take every whole frame; gives where the first broken one starts, and how many bytes it needs in all."""
        at = 0
        unpack, inbox = HEADER.unpack_from, self.inbox
        while have - at >= HEADER_SIZE:
            size, call, body_at, body_size, deadline, kind = unpack(view, at)
            start = at + HEADER_SIZE
            end = start + size
            if end > have:
                return at, HEADER_SIZE + size
            if kind == frames.EVENT:
                event = _decode_event(view[start:end])
                if body_size:
                    body = self._bodies[body_at : body_at + body_size]
                    event.body = body if self._view else bytes(body)
                inbox.append((kind, call, deadline, event))
            else:
                self._take(kind, call, deadline, view[start:end])
            at = end
        return at, 0

    def _take(self, kind: int, call: int, deadline: float, payload: memoryview) -> None:
        if kind == frames.BATCH:
            self.inbox.append((kind, call, deadline, _decode_events(payload)))
        elif kind == frames.CALL_ANSWER:
            if call == self.asked:  # else its caller has given up
                self.responses[call] = frames.decode_response(payload)
        elif kind == frames.MORE:
            if call in self.windows:
                self.windows[call] += frames.decode_number(payload)
        elif kind == frames.CANCEL:
            if call in self.windows:  # else the stream has ended by itself meanwhile
                self.cancelled.add(call)
        else:
            self.inbox.append((kind, call, deadline, None))

    def begin(self) -> bool:
        """Tell the agent, in shared memory, that one more event has begun and how far the outbox reaches. Before the handler
        runs.
        """
        self.begun += 1
        self.publish()
        first, last = RECALLED.unpack_from(self._inbound, RECALLED_AT)
        return not first <= self.begun <= last

    def publish(self) -> None:
        """Make what was written since visible to the agent without sending it."""
        STATE.pack_into(self._outbound, 0, self.begun, self._sent, self._sent + self._fill, self.peak_s, self.busy_s)

    def answer(self, kind: int, call: int, response: Response) -> None:
        """Write an answer (ANSWER, ANSWER_HELD, STREAM); it leaves with the next flush. Raises what msgspec raises for a bad
        value.
        """
        body = response.body
        if len(body) > INLINE_MAX and (at := self._lend(body)):
            head = Response(response.status, response.content_type, response.headers, b"", response.code, response.event_id)
            self.write(kind, call, encode(head), at, len(body))
        else:
            self.write(kind, call, encode(response))

    def _lend(self, body: bytes) -> int:
        """Put a body into the arena; 0 if it has no room now."""
        (taken,) = TAKEN.unpack_from(self._inbound, 0)
        while self._released < taken:
            self._extents.release(self._lent.popleft())
            self._released += 1
        at = self._extents.take(len(body))
        if at:
            self._outbound[at : at + len(body)] = body
            self._lent.append(at)
        return at

    def write(self, kind: int, call: int, payload: bytes, at: int = 0, size: int = 0) -> None:
        """Append a frame to the outbox, sending first what must make room."""
        start = self._fill + HEADER_SIZE
        end = start + len(payload)
        if end > OUTBOX_SIZE:
            self.flush()
            start, end = HEADER_SIZE, HEADER_SIZE + len(payload)
            if end > OUTBOX_SIZE:
                self._send_past_outbox(HEADER.pack(len(payload), call, at, size, 0.0, kind) + payload)
                return
        HEADER.pack_into(self._box, self._fill, len(payload), call, at, size, 0.0, kind)
        self._box[start:end] = payload
        self._fill = end

    def flush(self) -> None:
        """Send the outbox. Blocks while the agent is behind: a worker never buffers without bound."""
        if not self._fill:
            return
        self.publish()
        self._send(self._box[: self._fill])
        self._sent += self._fill
        self._fill = 0
        self._flushed_at = monotonic()
        self.publish()

    def flush_if_older(self, now: float, age_s: float) -> None:
        """Flush unless the last flush is younger than `age_s` at `now`, so that a burst shares a system call."""
        if now - self._flushed_at > age_s:
            self.flush()

    def _send_past_outbox(self, data: bytes) -> None:
        self._send(memoryview(data))
        self._sent += len(data)
        self.publish()

    def _send(self, data: memoryview) -> None:
        try:
            while data:
                data = data[self._sock.send(data) :]
        except ConnectionError as error:
            raise AgentGoneError from error
