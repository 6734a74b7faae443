"""Answers as HTTP requests to a server. One thread and one connection for each output: the kernel has no descriptor for a name
look-up, and http.client blocks.

    loop: send() ── job ──► queue ──► thread `http-output FUNCTION/NAME`: request, response ── future ──► send() returns
Requests leave in the order they came. A connection is kept; if the server closed it meanwhile, the request is sent once more on a
new one. Anything else is the caller's to try again, and with it all that was sent before the caller knew: nothing overtakes.
Redirects are not followed: a function's data goes where its manifest says.
"""

from __future__ import annotations

import asyncio
import http.client
import math
import os
import queue
import ssl
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Annotated, ClassVar
from urllib.parse import SplitResult, quote, urlsplit

from msgspec import Meta, Struct

from edgehost.errors import AwayError, TriggerError
from edgehost.event import Event, Response
from edgehost.manifest.model import Positive, Seconds
from edgehost.parcel import Parcel, Slip
from edgehost.plugin import OutputHost
from edgehost.trust import distrust

ID_HEADER = "X-Edgehost-Event-Id"
LATE_HEADER = "X-Edgehost-Late"
PUBLISHED_HEADER = "X-Edgehost-Published"
_FOR_NOW = frozenset({408, 425, 429})
"""Refusals that a server may think better of; those from 500 up are as well."""
_ANSWER_BYTES = 65536
STOP_S = 5.0
"""How long a stop goes on sending what waits."""
_TAKEN = frozenset({"content-length", "transfer-encoding", "connection", "host"})
_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class HttpOutputSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[outputs.NAME]` with `kind = "http"`."""

    url: str
    method: Annotated[str, Meta(pattern="^(POST|PUT|PATCH)$")] = "POST"
    headers: dict[str, str] = {}
    headers_env: dict[str, str] = {}
    """Header name to the environment variable that holds its value: where a token belongs."""
    timeout_s: Seconds = 10.0
    """For each of connect, send and answer."""
    ca_file: str = ""
    """Certificates to trust instead of the system's."""
    max_queued: Positive = 1000
    """Answers that may wait for a slow server."""

    def __post_init__(self) -> None:
        _check_url(self.url)
        for name in (*self.headers, *self.headers_env):
            if not name.isascii() or not name.replace("-", "").isalnum() or name.lower() in _TAKEN:
                raise ValueError(f"headers: {name!r} cannot be set; a name is letters, digits and -, and not {', '.join(_TAKEN)}")
        for name, value in self.headers.items():
            if not _one_line(value):
                raise ValueError(f"headers: the value of {name} cannot be sent; use one line of ASCII")
        if self.ca_file and not (self.ca_file.startswith("/") and self.url.startswith("https:")):
            raise ValueError(f"ca_file: {self.ca_file!r} must be an absolute path, and goes with an https URL")


@dataclass(frozen=True)
class _Job:
    body: bytes
    headers: dict[str, str]
    done: asyncio.Future[None]
    round: int
    """How often the loop had heard that the server takes nothing when it was sent."""


class HttpOutput:
    """See edgehost/plugin.py, Output."""

    Settings: ClassVar[type[Struct]] = HttpOutputSettings
    window: ClassVar[int] = 1
    numbered: ClassVar[bool] = False

    def __init__(self, settings: HttpOutputSettings, host: OutputHost) -> None:
        self._settings = settings
        self.receiver = f"http {settings.url}"
        self._where = f"[outputs.{host.name}]"
        self._name = f"http-output {host.function_name}/{host.name}"
        self._jobs: queue.Queue[_Job | None] = queue.Queue(settings.max_queued)
        self._headers: dict[str, str] = {}
        self._leave_at = math.inf
        self._round = 0
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Read certificates and variables, start the thread. TriggerError if one is missing; the server may be away."""
        self._headers = {name.lower(): value for name, value in (*self._settings.headers.items(), *self._secrets().items())}
        connection = self._connection(urlsplit(self._settings.url))
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        self._thread = threading.Thread(target=self._work, args=(loop, connection, self._ended), name=self._name, daemon=True)
        self._thread.start()

    @property
    def reachable(self) -> bool:
        """Nobody knows before a request has been tried."""
        return True

    def on_reachable(self, tell: Callable[[], None]) -> None:
        """It never changes."""

    def send(self, event: Event, response: Response) -> asyncio.Future[None]:
        """Done when the server has answered 2xx; TriggerError otherwise, AwayError if it may take the same answer later."""
        return self._post(bytes(response.body), response.content_type, event.id, {})

    def pack(self, event: Event, response: Response) -> Parcel:
        """The request's body and the id in its header."""
        return Parcel(self._settings.url, bytes(response.body), response.content_type, {}, event.id, time.time())

    def post(self, parcel: Parcel, late: bool, slip: Slip | None = None) -> asyncio.Future[None]:
        """As `send`. A late request says so in its headers."""
        if slip is not None and slip.released:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)  # it went out as something else, under an earlier manifest
            return done
        published = datetime.fromtimestamp(parcel.published, timezone.utc).isoformat(timespec="milliseconds")
        marks = {LATE_HEADER.lower(): "true", PUBLISHED_HEADER.lower(): published} if late else {}
        return self._post(parcel.body, parcel.content_type, parcel.id, marks)

    def recall(self, waits: Collection[asyncio.Future[None]], begun: bool) -> None:
        """A request ends by itself, soon."""

    def _post(self, body: bytes, content_type: str, event_id: str, marks: dict[str, str]) -> asyncio.Future[None]:
        kind = content_type if _one_line(content_type) else "application/octet-stream"
        headers = {"content-type": kind, ID_HEADER.lower(): quote(event_id, safe="/:+=@, "), **marks, **self._headers}
        job = _Job(body, headers, asyncio.get_running_loop().create_future(), self._round)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise AwayError(f"{self._where}: {self._settings.max_queued} answers wait for {self._settings.url}") from None
        # The first to know: whoever else waits for it hears of it in the same turn, and what is sent from then on is tried again.
        job.done.add_done_callback(partial(self._heard, job.round))
        return job.done

    def _heard(self, round: int, done: asyncio.Future[None]) -> None:
        if round == self._round and not done.cancelled() and isinstance(done.exception(), AwayError):
            self._round += 1

    async def stop(self) -> None:
        """Send what waits for STOP_S, refuse the rest, end the thread."""
        if self._ended is None or self._thread is None:
            return
        self._leave_at = time.monotonic() + STOP_S
        while True:
            try:
                self._jobs.put_nowait(None)
                break
            except queue.Full:
                await asyncio.sleep(0.05)
        await asyncio.wait({self._ended}, timeout=STOP_S + self._settings.timeout_s)
        if self._ended.done():
            self._thread.join()  # telling us was its last act

    def _secrets(self) -> dict[str, str]:
        for name, variable in self._settings.headers_env.items():
            if not _one_line(os.environ.get(variable, "").strip()):  # the value itself is a secret: it is never shown
                raise TriggerError(
                    f"{self._where}.headers_env: {variable} must be one line in the environment, for header {name}"
                )
        return {name: os.environ[variable].strip() for name, variable in self._settings.headers_env.items()}

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        host, timeout_s = url.hostname or "", self._settings.timeout_s
        if url.scheme == "http":
            return http.client.HTTPConnection(host, url.port, timeout=timeout_s)
        try:
            trust = ssl.create_default_context(cafile=self._settings.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise TriggerError(f"{self._where}.ca_file: {self._settings.ca_file} holds no certificates: {error}") from error
        return http.client.HTTPSConnection(host, url.port, timeout=timeout_s, context=trust)

    def _work(self, loop: asyncio.AbstractEventLoop, connection: http.client.HTTPConnection, ended: asyncio.Future[None]) -> None:
        """The thread: one job after another until None comes. After an answer that the server does not take now, none is tried
        that was sent before the loop knew of it."""
        passed_over, problem = -1, None
        while (job := self._jobs.get()) is not None:
            if job.done.cancelled():  # nobody waits: its deadline has passed in the queue
                continue
            if job.round > passed_over:
                stops = time.monotonic() > self._leave_at
                problem = AwayError(f"{self._where}: not sent, the agent stops") if stops else self._deliver(connection, job)
                if isinstance(problem, AwayError):
                    passed_over = job.round
            with suppress(RuntimeError):  # the loop is gone, and everybody who waited with it
                loop.call_soon_threadsafe(_settle, job.done, problem)
        connection.close()
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set_result, None)

    def _deliver(self, connection: http.client.HTTPConnection, job: _Job) -> TriggerError | None:
        """None when the server took it, else why not."""
        kept = connection.sock is not None
        try:
            try:
                status = self._exchange(connection, job)
            except _STALE:
                connection.close()
                if not kept:
                    raise
                status = self._exchange(connection, job)
        except ssl.SSLCertVerificationError as error:
            connection.close()
            return AwayError(f"{self._where}: {self._settings.url} is not trusted: {distrust(error, 'ca_file', datetime.now())}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            return AwayError(f"{self._where}: {self._settings.url} cannot be reached: {error or type(error).__name__}")
        if 200 <= status <= 299:
            return None
        note = "; redirects are not followed, name the last address" if 300 <= status <= 399 else ""
        kind = AwayError if status >= 500 or status in _FOR_NOW else TriggerError
        return kind(f"{self._where}: {self._settings.url} answered {status} and not 2xx{note}")

    def _exchange(self, connection: http.client.HTTPConnection, job: _Job) -> int:
        url = urlsplit(self._settings.url)
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request(self._settings.method, target, job.body, job.headers)
        answer = connection.getresponse()
        if not self._read_through(answer):
            connection.close()  # the next request gets a connection of its own
        return answer.status

    def _read_through(self, answer: http.client.HTTPResponse) -> bool:
        """Take the answer's body off the connection: nobody reads it. False if it is too long or too slow for that."""
        end, size_bytes = time.monotonic() + self._settings.timeout_s, 0
        while piece := answer.read1(_ANSWER_BYTES):
            size_bytes += len(piece)
            if size_bytes > _ANSWER_BYTES or time.monotonic() > end:
                return False
        answer.read()  # read1 does not see the end of a body of known length
        return True


def _settle(done: asyncio.Future[None], problem: TriggerError | None) -> None:
    if done.done():
        return
    if problem is not None:
        done.set_exception(problem)
    else:
        done.set_result(None)


def _one_line(text: str) -> bool:
    """Whether a header can hold it."""
    return text != "" and text.isascii() and text.isprintable()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"url: {url!r} is not a URL; use http://host[:port]/path or https://…, percent-encoded")
    if parts.username or parts.password:
        raise ValueError("url: holds a user name or password; put the header into headers_env, as in Authorization")
    if parts.fragment:
        raise ValueError(f"url: {url!r} has a fragment, which is never sent; leave it out")
