"""The bytes between the agent and a worker. Pure: knows the layout, does no I/O.

A frame is HEADER + payload, little-endian:

    offset  size  field
    0       4     payload size, bytes
    4       4     call: the number the agent gave the event (0 where a frame belongs to no event)
    8       4     body offset in the sender's arena
    12      4     body size in the sender's arena; 0 means the body is inside the payload
    16      8     deadline, seconds of the monotonic clock (EVENT and BATCH; 0 elsewhere)
    24      1     kind

The payload is msgpack; what it holds stands beside each kind.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

import msgspec

from edgehost.event import Event, Response

HEADER = Struct("<IIIIdB")
HEADER_SIZE = HEADER.size
PAYLOAD_MAX = 1 << 30
"""A header that claims more is no header: something else writes on the channel."""
INLINE_MAX = 64 * 1024
"""Larger bodies go through the arena: below it one more copy through the socket is cheaper than the bookkeeping."""

# agent -> worker
EVENT = 1  # Event
BATCH = 2  # list of Event
CANCEL = 3  # nothing: nobody waits for this call any more; a stream ends
MORE = 4  # int: that many more chunks of this call's stream may come
CALL_ANSWER = 5  # Response to a CALL; `call` is the worker's own number
DRAIN = 6  # nothing: run the drain callback
STOP = 7  # nothing: run the termination callback and end

# worker -> agent
READY = 20  # nothing: the function is loaded
FAILED = 21  # str: why it could not be loaded
ANSWER = 22  # Response
ANSWER_HELD = 23  # Response whose acknowledgement waits for ACK
ANSWERS = 24  # list of Response, one for each event of the batch
STREAM = 25  # Response: the head and first chunk of a stream
CHUNK = 26  # bytes
END = 27  # two str: why the stream broke off, and the code of that failure; both empty when it is whole
LOG = 28  # Record
CALL = 29  # Ask
PUBLISH = 30  # Publication
ACK = 31  # nothing: release a held answer
SKIPPED = 33  # nothing: this event was recalled before it began, and may go to another worker
DRAINED = 32  # nothing: the drain callback has run

STREAM_WINDOW = 16
"""Chunks a worker may be ahead of whoever reads its stream."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One log line of a function."""

    level: str
    message: str
    fields: dict[str, Any]
    event_id: str
    time: float
    """Unix seconds."""


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """`context.platform.call_function`."""

    function: str
    event: Event
    timeout_s: float | None = None


class Publication(msgspec.Struct, frozen=True, array_like=True):
    """`context.publish`."""

    output: str
    event: Event


encode = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(Event).decode
decode_response = msgspec.msgpack.Decoder(Response).decode
decode_responses = msgspec.msgpack.Decoder(list[Response]).decode
decode_end = msgspec.msgpack.Decoder(tuple[str, str]).decode
decode_text = msgspec.msgpack.Decoder(str).decode
decode_number = msgspec.msgpack.Decoder(int).decode
decode_chunk = msgspec.msgpack.Decoder(bytes).decode
decode_record = msgspec.msgpack.Decoder(Record).decode
decode_ask = msgspec.msgpack.Decoder(Ask).decode
decode_publication = msgspec.msgpack.Decoder(Publication).decode


def frame(kind: int, call: int = 0, payload: bytes = b"", at: int = 0, size: int = 0, deadline: float = 0.0) -> bytes:
    """One whole frame."""
    return HEADER.pack(len(payload), call, at, size, deadline, kind) + payload
