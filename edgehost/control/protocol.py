"""What the command line and the agent say to each other over the agent's Unix socket: the messages and their frames. No I/O here.

A frame is an unsigned 32-bit length, most significant byte first, and that many bytes of msgpack: one map whose `op` names the
message. A peer sends a request and reads replies until the last one; requests on one connection are answered in order:

    ping       ->  pong
    functions  ->  function_list
    invoke     ->  answer  chunk*  done
    reload     ->  reloaded
    gpio_read  ->  gpio_lines
    gpio_set   ->  gpio_lines
    gpio_pulse ->  gpio_lines
    gpio_watch ->  gpio_lines  gpio_changes*            (until the peer closes)
    journal    ->  journal_status
    letters_find    ->  letters
    letters_show    ->  whole_letter
    letters_replay  ->  letters_done
    letters_drop    ->  letters_done
    anything   ->  refused              (and, if the frame itself was wrong, the connection is closed)

The two sides may be of different versions of edgehost (an agent that runs on while its package is upgraded), so a message only
ever gains fields that have defaults, and unknown fields are ignored; PROTOCOL rises when a change is larger than that.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from edgehost import __version__
from edgehost.control.stock import JournalStatus
from edgehost.errors import ControlError
from edgehost.letter import Letters, Which, WholeLetter

PROTOCOL = 1
LIMIT_BYTES = 64 * 1024 * 1024
"""The largest frame either side takes: what a person may reasonably pipe through `edgehost invoke --file`."""
PIECE_BYTES = 1024 * 1024
"""An answer's body is cut into chunks of this size, so that it has no limit of its own."""
MOST_LETTERS = 10_000
"""So many dead letters are told at once: with their errors they fit into a frame."""

HEADER = struct.Struct(">I")

M = TypeVar("M")

FunctionState = Literal["starting", "ready", "degraded", "crash_loop", "failed", "stopped"]
TriggerState = Literal["starting", "running", "degraded", "failed", "stopped"]


class Ping(Struct, frozen=True, tag="ping", tag_field="op"):
    """Who is there?"""

    protocol: int = PROTOCOL


class ListFunctions(Struct, frozen=True, tag="functions", tag_field="op"):
    """How are the functions?"""

    protocol: int = PROTOCOL


class Invoke(Struct, frozen=True, tag="invoke", tag_field="op"):
    """Call one function once. Closing the connection before the answer cancels the call."""

    function: str
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = {}
    method: str = ""
    path: str = "/"
    protocol: int = PROTOCOL


class Reload(Struct, frozen=True, tag="reload", tag_field="op"):
    """Read edgehost.toml and the functions' folders again. Closing the connection does not stop a reload that has begun."""

    protocol: int = PROTOCOL


class GpioRead(Struct, frozen=True, tag="gpio_read", tag_field="op"):
    """How are these simulated lines? Without names: every one that has a name or a user."""

    lines: list[str] = []
    protocol: int = PROTOCOL


class GpioSet(Struct, frozen=True, tag="gpio_set", tag_field="op"):
    """Pull a simulated line high or low."""

    line: str
    high: bool
    protocol: int = PROTOCOL


class GpioPulse(Struct, frozen=True, tag="gpio_pulse", tag_field="op"):
    """Pull a simulated line to its other level and back, so many times, at this frequency. Answered when it is done."""

    line: str
    count: Annotated[int, Meta(ge=1, le=10_000_000)] = 1
    frequency_hz: Annotated[float, Meta(gt=0, le=1_000_000)] = 10.0
    protocol: int = PROTOCOL


class GpioWatch(Struct, frozen=True, tag="gpio_watch", tag_field="op"):
    """Tell each change of these simulated lines; without names of all."""

    lines: list[str] = []
    protocol: int = PROTOCOL


class AskJournal(Struct, frozen=True, tag="journal", tag_field="op"):
    """How is the journal, and what waits in it?"""

    protocol: int = PROTOCOL


class FindLetters(Struct, frozen=True, tag="letters_find", tag_field="op"):
    """Which dead letters are there? The newest `limit` are told, and how many fit."""

    which: Which = Which()
    limit: Annotated[int, Meta(ge=0, le=MOST_LETTERS)] = 50
    protocol: int = PROTOCOL


class ShowLetter(Struct, frozen=True, tag="letters_show", tag_field="op"):
    """What does this dead letter hold?"""

    number: int
    protocol: int = PROTOCOL


class ReplayLetters(Struct, frozen=True, tag="letters_replay", tag_field="op"):
    """Put these back where they came from. Closing the connection does not stop a replay that has begun."""

    which: Which
    protocol: int = PROTOCOL


class DropLetters(Struct, frozen=True, tag="letters_drop", tag_field="op"):
    """Remove these."""

    which: Which
    protocol: int = PROTOCOL


class GpioLine(Struct, frozen=True):
    """One line, as a wire sees it."""

    line: str
    """As it was asked for, else its name, else its place."""
    place: str
    """`gpiochip0:17`."""
    consumer: str = ""
    """Function and trigger or output that use it; empty if none does."""
    output: bool = False
    high: bool | None = None
    """None: not known without using the line (a line of the kernel that is only listed)."""


class GpioChange(Struct, frozen=True):
    """A line has another level."""

    line: str
    high: bool
    time: float
    """Unix time."""


class TriggerStatus(Struct, frozen=True):
    """How one trigger of a function is; `message` says what to do when it is not `running`."""

    name: str
    kind: str
    state: TriggerState
    message: str = ""
    counts: dict[str, int] = {}
    """What happened at the source since it started, by name: `dropped`, `bad_checksum`, `reconnects` ..."""


class FunctionStatus(Struct, frozen=True):
    """How one function is: its state, its workers, what waits, and counts since the agent started it."""

    name: str
    state: FunctionState
    version: str = "0.0.0"
    runtime: str = "python"
    workers_ready: int = 0
    workers_wanted: int = 0
    queued: int = 0
    in_flight: int = 0
    handled: int = 0
    failed: int = 0
    dropped: int = 0
    p50_ms: float | None = None
    """Of recent calls, from taken off the queue to answered; None before the first."""
    p99_ms: float | None = None
    triggers: list[TriggerStatus] = []
    last_error: str = ""
    since: float = 0.0
    """Unix time at which it came into this state; 0 if never said."""
    warnings: list[str] = []
    """What the manifest says that is not used here, one line each."""
    limits: list[str] = []
    """What a worker may use, and by what that holds here: `memory 64 MiB (cgroup)`."""
    sandbox: str = ""
    """What keeps its workers to their own files: `Landlock 7: files, devices, signals; network all`."""


class Pong(Struct, frozen=True, tag="pong", tag_field="op"):
    """The agent that answers here."""

    version: str
    pid: int
    started: float
    """Unix time."""
    protocol: int = PROTOCOL
    troubles: list[str] = []
    """What is wrong with the agent itself and no function's fault (a disk that fills), one line each."""


class FunctionList(Struct, frozen=True, tag="function_list", tag_field="op"):
    """Every function the agent knows, in the order of their names."""

    functions: list[FunctionStatus]


class Reloaded(Struct, frozen=True, tag="reloaded", tag_field="op"):
    """What a reload did, by the functions' names."""

    added: list[str] = []
    replaced: list[str] = []
    removed: list[str] = []
    kept: list[str] = []
    """Nothing of them has changed."""
    restart: list[str] = []
    """Keys of edgehost.toml whose change takes effect when the agent is started again."""
    problems: list[str] = []
    """What could not be done, one line each; the function it is about is as it was before."""


class Answer(Struct, frozen=True, tag="answer", tag_field="op"):
    """The head of a function's answer; the body follows in chunks. `code` names a failure, empty when the handler answered."""

    status: int
    content_type: str = "text/plain"
    headers: dict[str, str] = {}
    code: str = ""


class Chunk(Struct, frozen=True, tag="chunk", tag_field="op"):
    """The next bytes of the body."""

    data: bytes


class Done(Struct, frozen=True, tag="done", tag_field="op"):
    """The body is whole, unless `error` says why it broke off."""

    duration_ms: float
    error: str = ""


class GpioLines(Struct, frozen=True, tag="gpio_lines", tag_field="op"):
    """How the lines asked for are."""

    lines: list[GpioLine]


class GpioChanges(Struct, frozen=True, tag="gpio_changes", tag_field="op"):
    """What has changed, in order. `lost` more came before them and were not kept: the peer reads too slowly."""

    changes: list[GpioChange]
    lost: int = 0


class LettersDone(Struct, frozen=True, tag="letters_done", tag_field="op"):
    """So many dead letters were replayed, or dropped."""

    count: int


class Refused(Struct, frozen=True, tag="refused", tag_field="op"):
    """The request was not carried out; `code` is stable, `message` is for a person."""

    code: str
    message: str


LetterRequest = FindLetters | ShowLetter | ReplayLetters | DropLetters
Request = Ping | ListFunctions | Invoke | Reload | GpioRead | GpioSet | GpioPulse | GpioWatch | AskJournal | LetterRequest
Reply = (
    Pong | FunctionList | Reloaded | GpioLines | GpioChanges | Answer | Chunk | Done | Refused
    | JournalStatus | Letters | WholeLetter | LettersDone
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


class _Envelope(Struct, frozen=True):
    """What can be read of a message of any version."""

    op: str = ""
    protocol: int = PROTOCOL


def encode(message: Request | Reply) -> bytes:
    """One whole frame. Raises ControlError if the message is over LIMIT_BYTES."""
    payload = _encoder.encode(message)
    if len(payload) > LIMIT_BYTES:
        raise ControlError(f"{len(payload)} bytes are more than the {LIMIT_BYTES} the local socket carries at once; send less")
    return HEADER.pack(len(payload)) + payload


def payload_size(header: bytes) -> int:
    """How many bytes follow this 4-byte header. Raises ControlError for a length that no frame has."""
    (size,) = HEADER.unpack(header)
    if not 0 < size <= LIMIT_BYTES:
        raise ControlError(f"a frame of {size} bytes is not one of edgehost; 1 to {LIMIT_BYTES} are allowed")
    return int(size)


def decode_request(payload: bytes) -> Request:
    """The request in one frame. Raises ControlError that says which side is too old, or that the bytes are no request."""
    return _decode(_requests, payload)


def decode_reply(payload: bytes) -> Reply:
    """The reply in one frame. Raises ControlError as `decode_request` does."""
    return _decode(_replies, payload)


def _decode(decoder: msgspec.msgpack.Decoder[M], payload: bytes) -> M:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ControlError(_complaint(payload, str(error))) from error


def _complaint(payload: bytes, reason: str) -> str:
    try:
        envelope = msgspec.msgpack.decode(payload, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return f"not a message of edgehost's local protocol: {reason}"
    if envelope.protocol != PROTOCOL:
        return (
            f"{envelope.op!r} is of protocol {envelope.protocol}, edgehost {__version__} speaks protocol {PROTOCOL}; "
            "restart the agent so that both sides are of one version"
        )
    return f"{envelope.op!r} is not understood by edgehost {__version__}: {reason}"
