"""The life of a worker process after the fork: load the function, say so or say why not, then work until the end.

Must not know queues, policies or other workers. Everything here ends with the process: `os._exit` is the only way out.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from edgehost.engine import frames
from edgehost.engine.answering import describe
from edgehost.engine.arena import map_other, map_own
from edgehost.engine.async_worker import AsyncWorker
from edgehost.engine.frames import encode
from edgehost.engine.gateway import Gateway
from edgehost.engine.port import AgentGoneError, Port
from edgehost.engine.spec import WorkerSpec
from edgehost.engine.sync_worker import SyncWorker
from edgehost.engine.traces import trace
from edgehost.sdk.logger import capture_output
from edgehost.sdk.program import Program

Load = Callable[[WorkerSpec, Any], Program]
"""A runtime's `load`: the spec, and the link to the agent."""


def main(spec: WorkerSpec, sock: socket.socket, inbound: int, outbound: int, secrets: list[int], load: Load) -> int:
    """From the fork to the end. Gives the exit status; the caller ends the process with it."""
    port = Port(sock, map_other(inbound), map_own(outbound), spec.body == "view")
    os.close(inbound)
    os.close(outbound)
    os.register_at_fork(after_in_child=port.disown)
    gateway = Gateway(port, spec.log_level, _secrets(secrets))
    capture_output(gateway, spec.log_level)
    try:
        worker = _prepare(port, gateway, load(spec, gateway), spec)
    except BaseException as error:
        reason = describe(error) if isinstance(error, Exception) else f"the module ended its worker: {error!r}"
        reason = gateway.redaction.text(reason)
        gateway.log("error", reason, {"traceback": trace(error)}, "")
        port.write(frames.FAILED, 0, encode(reason))
        port.flush()
        return 1
    port.write(frames.READY, 0, b"")
    port.flush()
    try:
        return worker.run()
    except AgentGoneError:
        return 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


def _secrets(descriptors: list[int]) -> dict[str, str | bytes]:
    """What this function's secrets are, read from the descriptor that came past the zygote; {} without one."""
    for descriptor in descriptors:
        with os.fdopen(descriptor, "rb") as file:
            secrets: dict[str, str | bytes] = msgspec.msgpack.decode(file.read())
            return secrets
    return {}


def _prepare(port: Port, gateway: Gateway, program: Program, spec: WorkerSpec) -> SyncWorker | AsyncWorker:
    """The worker for this program; one with a loop awaits an async `init_context` on it."""
    if not program.asynchronous:
        return SyncWorker(port, gateway, program, spec.permanent)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    worker = AsyncWorker(port, gateway, program, spec.permanent, spec.concurrency)
    started = program.on_start()
    if inspect.isawaitable(started):
        loop.run_until_complete(started)
    return worker
