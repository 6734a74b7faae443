"""The contracts of the three kinds of plugin (trigger, output, runtime), and how a kind's class is found by its entry point.

Nothing in edgehost imports a plugin statically; a class is imported when a manifest first names its kind.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from msgspec import Struct

from edgehost.errors import PluginError
from edgehost.event import Event, Origin, Response
from edgehost.parcel import Parcel, Slip

if TYPE_CHECKING:
    from edgehost.config import Config
    from edgehost.mqtt import Session

T = TypeVar("T")
Kind = Literal["trigger", "output", "runtime"]
TriggerState = Literal["starting", "running", "degraded", "failed", "stopped"]


class Shared(Protocol):
    """A part several plugins use together (the HTTP listener, say). Made by the first user, closed when the agent ends."""

    async def close(self) -> None: ...


class TriggerHost(Protocol):
    """What the agent gives a trigger. One host per trigger instance."""

    function_name: str
    folder: Path
    """The function's own folder, the bundle's root."""
    origin: Origin
    """The value for `Event.trigger` of every event this trigger makes."""
    standalone: bool
    """True under `edgehost run` with one function alone: the HTTP trigger then serves `/` too."""
    config: Config
    log: logging.LoggerAdapter[logging.Logger]
    counts: Counter[str]
    """What happened at the source, by name (`dropped`, `bad_checksum`, `reconnects`): count up, `edgehost functions` shows it."""
    durable: bool
    """True if `submit` answers 202 as soon as the event is on disk: what the function says to it goes to its outputs."""
    dedupes: bool
    """True if an event that comes again is answered and not run again, as far as it has what it is known by."""
    state: TriggerState
    message: str
    """What was reported last, by whatever part of the trigger."""
    children: set[int]
    """Processes a trigger has started itself: a process id from its start until it has been waited for. Any other child the agent
    finds is an orphan of a worker, and is ended."""

    @property
    def submit(self) -> Callable[[Event], asyncio.Future[Response]]:
        """Hand over one event; await the answer. The future never raises: a failure is a Response with a `code`.

        Read it for every event (`host.submit(event)`): an upgrade of the function is one assignment behind it.
        Under the queue policy `block` the future also covers the wait for room, so a trigger bounds what it has in flight.
        """

    @property
    def ask(self) -> Callable[[Event], asyncio.Future[Response]]:
        """As `submit`, for an event whose sender waits for the function's own answer, also where the trigger is durable."""

    @property
    def behind(self) -> bool:
        """Whether durable events of this trigger are on disk that the function has not answered."""

    def withdraw(self, future: asyncio.Future[Response]) -> bool:
        """Take back an event that no worker has begun: its future becomes the failure `no_worker`. False: begun or answered."""

    def broker(self, name: str) -> Session:
        """The one MQTT session of broker `name` in edgehost.toml, or of a `mqtt://` URL."""

    def shared(self, key: str, make: Callable[[], T]) -> T:
        """The agent-wide part under `key`, made now if this is its first user."""

    def report(self, state: TriggerState, message: str = "") -> None:
        """Tell how the trigger is; shown by `edgehost functions` and logged when it changes. A message says what to do."""


class Trigger(Protocol):
    """Listens to a source and hands over events; acknowledges when the answer is there (the code after the await is the ack)."""

    Settings: ClassVar[type[Struct]]
    """What `[triggers.NAME]` may hold beside `kind` and `batch`; msgspec, frozen, forbid_unknown_fields, constraints in Meta."""
    replies: ClassVar[bool]
    """True if a caller waits for the answer (HTTP): such events are not retried and not sent to outputs."""
    # A kind whose events bear an id of their source, which is the same when the event comes again, has also
    # `source_id(event) -> str`, a static method: that id, or "" if this one has none. Without it, no `dedupe` by id.

    def __init__(self, settings: Any, host: TriggerHost) -> None: ...

    async def start(self) -> None:
        """Begin to listen. Raises TriggerError for what a person must mend; an unreachable broker is a state, not an error."""

    async def stop(self) -> None:
        """Take no new event; return when every event in flight has been answered and acknowledged. The function still runs."""


class OutputHost(Protocol):
    """What the agent gives an output."""

    function_name: str
    name: str
    config: Config
    log: logging.LoggerAdapter[logging.Logger]

    def broker(self, name: str) -> Session: ...

    def shared(self, key: str, make: Callable[[], T]) -> T:
        """As TriggerHost.shared: the same parts, so that an output can write to the port a trigger reads."""

    def call(self, function_name: str, event: Event) -> asyncio.Future[Response]:
        """Hand an event to a local function by name, with its retries and outputs; code `not_ready` if there is none."""


class Output(Protocol):
    """Takes a function's answers somewhere."""

    Settings: ClassVar[type[Struct]]

    def __init__(self, settings: Any, host: OutputHost) -> None: ...

    async def start(self) -> None: ...

    def send(self, event: Event, response: Response) -> Awaitable[None] | None:
        """Send one answer. None: it is safe already; else it is safe when the awaitable is done (`async def` is the common form).
        Raises TriggerError, now or from the awaitable, if it cannot be made safe.
        """

    async def stop(self) -> None: ...


class Forwarding(Output, Protocol):
    """An Output whose answers can leave later, from disk: `send` is `post(pack(...))` for one that leaves now.

    Both raise TriggerError for an answer that its receiver will never take and AwayError for one that it may take later. What is
    sent earlier arrives earlier, also over an AwayError: with it comes back all that was sent before its caller knew. (A receiver
    that takes several at once may still refuse one of them alone.)
    """

    window: ClassVar[int]
    """How many parcels out of the store may be under way at once and still arrive in order."""
    numbered: bool
    """True if each parcel needs a number before it is sent: its receiver takes it in two steps."""
    receiver: str
    """Who receives, in any words: two outputs with the same may follow each other without a gap."""

    @property
    def reachable(self) -> bool:
        """False while nothing can leave. An output that does not know says True, and AwayError when it was wrong."""

    def on_reachable(self, tell: Callable[[], None]) -> None:
        """Have `tell` called whenever `reachable` has changed."""

    def pack(self, event: Event, response: Response) -> Parcel:
        """What `send` would send."""

    def post(self, parcel: Parcel, late: bool, slip: Slip | None = None) -> Awaitable[None]:
        """Send a parcel; it is with its receiver when the awaitable is done. `late`: mark it as held up on its way.

        With a slip it is sent under its number, and ends with `slip.release`; a released one is not sent any more.
        """

    def recall(self, waits: Collection[asyncio.Future[None]], begun: bool) -> None:
        """The receiver is away. Give back, by an AwayError, what has not been sent of these (from `post` and `send`); if `begun`,
        also what has been sent and not been taken. What cannot be given back stays as it is."""


class Runtime(Protocol):
    """Knows how to run one kind of code inside a worker process. Imported on both sides; `load` runs in the worker."""

    Settings: ClassVar[type[Struct] | None]
    """The manifest table named after the runtime (`[onnx]`), None if it has none."""
    needs_handler: ClassVar[bool]
    preload: ClassVar[tuple[str, ...]]
    """Modules a zygote imports before it forks such workers (never ones that start a GPU context)."""

    @staticmethod
    def check(folder: Path, handler: str, settings: Any) -> None:
        """Raise ManifestError for what can be seen wrong without starting a worker (no model file, no colon in handler)."""

    @staticmethod
    def devices(settings: Any, providers: Sequence[str]) -> Sequence[str]:
        """The device files its workers need, as patterns that `[sandbox]` then need not name; `providers` are the board's."""

    @staticmethod
    def load(spec: Any, link: Any) -> Any:
        """In the worker, after the fork: load the code (edgehost.engine.spec.WorkerSpec, edgehost.sdk.link.Link) and return an
        edgehost.sdk.program.Program. Whatever it raises is a start failure, reported with its message."""


_GROUPS: dict[Kind, str] = {"trigger": "edgehost.triggers", "output": "edgehost.outputs", "runtime": "edgehost.runtimes"}


_EXTRAS = frozenset({"http", "onnx", "gpio", "modbus"})
"""Kinds that need an extra of edgehost, which bears their name."""


def kinds(kind: Kind) -> Sequence[str]:
    """The names of every installed plugin of one kind, sorted."""
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group=_GROUPS[kind])})


@cache
def load(kind: Kind, name: str) -> Any:
    """The class of plugin `name`. Raises PluginError if none has that name, or if a package it needs is not installed."""
    from importlib.metadata import entry_points

    points = list(entry_points(group=_GROUPS[kind], name=name))
    if not points:
        raise PluginError(f"{name!r} is not a {kind}; installed are {', '.join(kinds(kind)) or 'none'}")
    try:
        return points[0].load()
    except ImportError as error:
        extra = name if name in _EXTRAS else ""
        advice = f"pip install 'edgehost[{extra}]'" if extra else "reinstall the package that provides it"
        raise PluginError(f"{kind} {name!r} cannot be loaded: {error}; {advice}") from error
