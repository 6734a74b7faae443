"""What a function manifest says, as frozen values. Knows nothing of files or formats: the readers beside it make these values.

A plugin's own settings (`[triggers.x]`, `[outputs.x]`, `[onnx]`) are a Struct of that plugin, converted at the border and carried
here as `settings`, so nothing further in ever sees a dict of options.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=366 * 86400)]
"""Up to a year, which also keeps TOML's `inf` out."""
Workers = Annotated[int, Meta(ge=1, le=256)]
Concurrency = Annotated[int, Meta(ge=1, le=1024)]
Port = Annotated[int, Meta(ge=1, le=65535)]
FilePath = Annotated[str, Meta(pattern="^[^\\x00]+$")]
QueuePolicy = Literal["block", "reject", "drop_oldest", "drop_newest"]
DrainPolicy = Literal["finish", "inflight", "handover"]
RetryCode = Literal["raised", "timeout", "worker_died", "no_worker", "queue_full"]
FullPolicy = Literal["drop_oldest", "drop_newest", "drop_low_priority", "block"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Queue(Struct, frozen=True, forbid_unknown_fields=True):
    """`[queue]`: how many events may wait for a worker and what happens to one too many."""

    size: Positive = 1000
    policy: QueuePolicy = "block"


class Retry(Struct, frozen=True, forbid_unknown_fields=True):
    """`[retry]`: how often a failed event is tried in all, and the back-off between two tries (doubled, with jitter).

    Applies to events nobody waits for (MQTT, cron, serial ...); an HTTP caller gets the failure and decides itself.
    """

    attempts: Positive = 1
    delay_s: Seconds = 1.0
    max_delay_s: Seconds = 60.0
    on: tuple[RetryCode, ...] = ("raised", "timeout", "worker_died", "no_worker", "queue_full")
    """Which failures are worth another try; the others fail for good at once."""
    permanent: tuple[str, ...] = ()
    """Exceptions that no other try would mend, by class name or by where the class is found (`app.BadReading`)."""
    dead_letter: bool = True
    """Keep an event that failed for good, with its error; see `edgehost dead-letters`."""


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """`[limits]`: what one worker may use; None means the system's own limit stays."""

    memory_bytes: Positive | None = None
    open_files: Positive | None = None
    processes: Positive | None = None
    cpu: Annotated[float, Meta(gt=0, le=1024)] | None = None
    """Processor cores: 0.5 is half of one. Held by a cgroup alone."""
    cpu_s: Positive | None = None
    """CPU seconds of a worker's whole life; it is replaced when they are spent."""
    niceness: Annotated[int, Meta(ge=-20, le=19)] | None = None
    temp_bytes: Positive | None = None
    """What its private temporary folder may hold."""


class Sandbox(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sandbox]`: what a worker may see beside the system, its own folder and its private temporary folder.

    Relative paths count from the function's folder; devices may be patterns (`/dev/video*`).
    """

    enabled: bool = True
    required: bool = False
    """Do not start where the kernel cannot hold it."""
    read: tuple[FilePath, ...] = ()
    write: tuple[FilePath, ...] = ()
    devices: tuple[Annotated[str, Meta(pattern="^/dev/[^\\x00]+$")], ...] = ()
    network: Literal["all", "none"] | tuple[Port, ...] = "all"
    """TCP alone: all of it, none, or these ports."""

    def __post_init__(self) -> None:
        if self.required and not self.enabled:
            raise ValueError("required: true, but enabled is false; remove one of the two")


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """`batch = { size = 10, wait_s = 1.0 }` of a trigger: deliver up to `size` events in one call, waiting at most `wait_s`."""

    size: Positive
    wait_s: Seconds = 1.0


class Dedupe(Struct, frozen=True, forbid_unknown_fields=True):
    """`dedupe = { by = "id", keep = "1h" }` of a trigger: an event that comes again within `keep_s` is answered, not run."""

    by: Annotated[str, Meta(pattern="^(id|body|header:[!-~]+)$")] = "id"
    """What makes two events one: the id their source gave them, their body, or a header (`header:Idempotency-Key`)."""
    keep_s: Seconds = 3600.0


class Store(Struct, frozen=True, forbid_unknown_fields=True):
    """`store` of an output: what waits on disk for a receiver that is away, how much of it, how long."""

    enabled: bool = True
    """False: what cannot leave now waits in memory, as far as the output itself lets it."""
    quota_bytes: Positive | None = None
    """Of this output's waiting messages; None: `[journal] outbox` of edgehost.toml alone bounds them."""
    ttl_s: Seconds | None = None
    """A message that has waited longer is dropped; None: it waits for ever."""
    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    """9 leaves first. Below 5 is low: such messages go first when the disk fills."""
    full: FullPolicy = "drop_oldest"
    """What happens to one message too many."""


class TriggerSpec(Struct, frozen=True):
    """One `[triggers.NAME]`. `settings` is an instance of the trigger plugin's own Settings struct."""

    name: str
    kind: str
    settings: Struct
    batch: Batch | None = None
    durable: bool = False
    """The event is on disk before its source is told that it was received; then it waits for its turn there."""
    dedupe: Dedupe | None = None


class OutputSpec(Struct, frozen=True):
    """One `[outputs.NAME]`. It gets the answers of `triggers` (empty: of every trigger without a waiting caller)."""

    name: str
    kind: str
    settings: Struct
    on: Literal["success", "failure", "always", "never"] = "success"
    """never: it only gets what the handler sends it with `context.publish`."""
    triggers: tuple[str, ...] = ()
    store: Store = Store()
    """For the outputs that reach over a network."""


class Manifest(Struct, frozen=True):
    """One function, as its manifest says. `folder` is the bundle's root; `source` names the file for messages."""

    name: str
    folder: Path
    source: Path
    version: str = "0.0.0"
    description: str = ""
    runtime: str = "python"
    handler: str = ""
    workers: Workers = 1
    concurrency: Concurrency = 1
    timeout_s: Seconds = 60.0
    start_timeout_s: Seconds = 30.0
    body: Literal["bytes", "view"] = "bytes"
    preload: tuple[str, ...] = ()
    on_loop: bool = False
    debug: bool = False
    log_level: LogLevel = "info"
    drain: DrainPolicy = "finish"
    drain_timeout_s: Seconds = 30.0
    queue: Queue = Queue()
    retry: Retry = Retry()
    env: dict[str, str] = {}
    limits: Limits = Limits()
    sandbox: Sandbox = Sandbox()
    secrets: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    """Names of edgehost.toml's `[secrets.NAME]` that `context.secrets` holds."""
    triggers: tuple[TriggerSpec, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()
    options: Struct | None = None
    """The runtime plugin's own settings (`[onnx]`), None when the runtime has none."""
    warnings: tuple[str, ...] = ()
    """What was read but not used, one line each (a Kubernetes-only key of a Nuclio manifest, say)."""
