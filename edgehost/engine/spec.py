"""What a worker is told at birth: one value, sent to the zygote as msgpack. Holds nothing of the agent's own configuration."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from edgehost.event import Origin


class WorkerSpec(Struct, frozen=True, array_like=True):
    """One worker of one function. `settings` is the runtime's own table, encoded; the runtime in the worker decodes it."""

    function: str
    version: str
    description: str
    runtime: str
    handler: str
    folder: str
    worker_id: int
    concurrency: int
    timeout_s: float
    body: str
    """`bytes` or `view`: how a body that came through the arena is handed to the handler."""
    on_loop: bool
    debug: bool
    log_level: str
    env: dict[str, str]
    triggers: tuple[Origin, ...]
    outputs: tuple[str, ...]
    memory_bytes: int | None = None
    open_files: int | None = None
    processes: int | None = None
    cpu_s: int | None = None
    niceness: int | None = None
    settings: Raw | Any = None
