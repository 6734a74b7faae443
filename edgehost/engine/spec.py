"""What a worker is told at birth: one value, sent to the zygote as msgpack. Holds nothing of the agent's own configuration."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from edgehost import plugin
from edgehost.event import Origin
from edgehost.manifest.model import Limits, Manifest, Sandbox


class Bounds(Struct, frozen=True, array_like=True):
    """What the agent has made ready for one worker alone, at its birth. Empty: it is held to its limits and nothing else."""

    temp: str = ""
    """Its private folder for temporary files."""
    cgroup: str = ""
    """The `cgroup.procs` of the cgroup it goes into."""
    file_bytes: int | None = None
    tasks: int | None = None
    """RLIMIT_NPROC, which counts all tasks of the user."""
    files: tuple[tuple[str, int], ...] | None = None
    """Landlock's rules, path and rights; None: no Landlock."""
    ports: tuple[int, ...] | None = None
    """TCP ports it may use; None: all."""
    hidden: bool = False
    """It closes its memory to all of its user's processes (PR_SET_DUMPABLE)."""


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
    limits: Limits = Limits()
    sandbox: Sandbox = Sandbox()
    secrets: tuple[str, ...] = ()
    """Names alone: what they stand for comes to the worker through a descriptor, past its zygote."""
    bounds: Bounds = Bounds()
    providers: tuple[str, ...] = ()
    """What runs models on this board, in the order to try, for a runtime whose function leaves that to the board."""
    settings: Raw | Any = None
    devices: tuple[str, ...] = ()
    """Patterns of device files that its runtime needs, beside those of `sandbox`."""
    permanent: tuple[str, ...] = ()
    """Names of exceptions that no other try would mend."""


def worker_spec(manifest: Manifest, providers: tuple[str, ...] = ()) -> WorkerSpec:
    """What the workers of this manifest are told; `providers` as in WorkerSpec."""
    runtime = plugin.load("runtime", manifest.runtime)
    return WorkerSpec(
        function=manifest.name,
        version=manifest.version,
        description=manifest.description,
        runtime=manifest.runtime,
        handler=manifest.handler,
        folder=str(manifest.folder),
        worker_id=0,
        concurrency=manifest.concurrency,
        timeout_s=manifest.timeout_s,
        body=manifest.body,
        on_loop=manifest.on_loop,
        debug=manifest.debug,
        log_level=manifest.log_level,
        env=manifest.env,
        triggers=tuple(Origin(trigger.kind, trigger.name) for trigger in manifest.triggers),
        outputs=tuple(output.name for output in manifest.outputs),
        limits=manifest.limits,
        sandbox=manifest.sandbox,
        secrets=manifest.secrets,
        providers=providers,
        devices=tuple(runtime.devices(manifest.options, providers)),
        settings=msgspec.Raw(msgspec.msgpack.encode(manifest.options)),
        permanent=manifest.retry.permanent,
    )
