"""`edgehost invoke --local`: one call of one function without an agent, in a real worker process of the real engine.

So a time-out, an `os._exit` or a memory limit ends as it would on the device. What is not there is said so: other functions
answer `not_ready`, and what the handler publishes is noted in the log instead of sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from edgehost.cli.answers import LogRecord
from edgehost.control.local import event_of
from edgehost.control.protocol import Invoke
from edgehost.engine.call import BrokenOffError, whole
from edgehost.engine.function import Function
from edgehost.engine.nursery import Nursery, breed_of
from edgehost.engine.spec import worker_spec
from edgehost.errors import StartError
from edgehost.event import Event, Response, failure
from edgehost.manifest import read_manifest
from edgehost.manifest.model import Manifest
from edgehost.profile import recognise

PREVIEW_BYTES = 200


class Alone:
    """The edgehost.engine.function.Services of a function that has no agent."""

    def call(self, name: str, event: Event) -> asyncio.Future[Response]:
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        answer.set_result(failure("not_ready", f"function {name!r} is not here: --local runs one function alone"))
        return answer

    def stores(self, output: str) -> bool:
        return False

    def publish(self, output: str, event: Event) -> asyncio.Future[None]:
        text = event.body[:PREVIEW_BYTES].decode("utf-8", "replace")
        where = f"{output} ({event.path})" if event.path.strip("/") else output
        logging.getLogger("edgehost.function").info("published to output %s: %s", where, text)
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent


def call_once(folder: Path, request: Invoke, timeout_s: float | None) -> tuple[Response, float, list[LogRecord]]:
    """Load the function in `folder`, hand it one event, end it. Gives its answer in one piece, the milliseconds from submit to
    answer, and everything it logged. Raises ManifestError, or StartError if it cannot be loaded."""
    manifest = read_manifest(folder.resolve())  # a worker's zygote has a working folder of its own
    if manifest.secrets:
        raise StartError(f"{manifest.name}: --local has no edgehost.toml to grant secrets by; run an agent with --config")
    if timeout_s is not None:
        manifest = replace(manifest, timeout_s=timeout_s)
    with _logged() as records:
        response, duration_ms = asyncio.run(_call(manifest, event_of(request)))
    return response, duration_ms, records


async def _call(manifest: Manifest, event: Event) -> tuple[Response, float]:
    nursery = Nursery(asyncio.get_running_loop())
    breed = breed_of(manifest)
    spec = worker_spec(manifest, recognise().profile.providers)
    function = Function(spec, 1, manifest.queue, manifest.start_timeout_s, nursery, breed, Alone())
    try:
        await function.start()
        began = time.perf_counter()
        response = await _whole(await function.submit(event))
        return response, (time.perf_counter() - began) * 1000.0
    finally:
        await function.drain(manifest.drain, manifest.drain_timeout_s)
        await function.close()
        nursery.close()


async def _whole(response: Response) -> Response:
    try:
        return await whole(response)
    except BrokenOffError as error:
        return failure(error.code, f"the stream broke off: {error}")


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        level = {"warning": "warn", "critical": "error"}.get(record.levelname.lower(), record.levelname.lower())
        fields = getattr(record, "fields", None) or {}
        self.records.append(LogRecord(level, record.getMessage(), int(record.created * 1000), fields))


@contextmanager
def _logged() -> Iterator[list[LogRecord]]:
    """Collect what the function and the engine log while the block runs."""
    collector = _Collector()
    log = logging.getLogger("edgehost")
    before = log.level, log.propagate
    log.addHandler(collector)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        yield collector.records
    finally:
        log.removeHandler(collector)
        log.level, log.propagate = before
