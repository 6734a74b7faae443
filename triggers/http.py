"""HTTP requests as events, and answers as HTTP responses. One HttpTrigger for each `[triggers.NAME]` of kind `http`.

The listener (edgehost/http) finds the trigger; here a request becomes an Event, the engine's Future is awaited while somebody
still waits for it, and the Response becomes head and body:

    request is refused      405 method, 413 body too large, 408 body too slow, 400 malformed
    the client leaves       the future is cancelled: "nobody waits any more"; a stream is closed
    no worker in wait_s     the event is withdrawn (503), unless a worker has begun it
    the queue is full       429 with Retry-After, also where the policy is `block`; and if the bodies of all requests together
                            are too large (edgehost/http/bodies.py)
    durable                 202 with the event's id once it is on disk; the function's answer goes to its outputs. Not on disk in
                            wait_s, or no room there: 503
    a failure               the Response's own status (edgehost/event.py, FAILURES)
Knows nothing of queues and workers. Watching for a client that leaves costs a task, so it begins WATCH_AFTER_S into the wait.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import parse_qsl
from uuid import uuid4

import msgspec
from msgspec import Meta, Struct

from edgehost.event import Event, Origin, Response, failure
from edgehost.http.asgi import ClientGoneError, Headers, Receive, RefusedError, Scope, Send, read_body, reply, until_gone
from edgehost.http.cors import Cors, allows, answer_headers, preflight_headers
from edgehost.http.files import open_within
from edgehost.http.listener import Listener
from edgehost.http.routes import Route, parse_route
from edgehost.http.stream import close, send_while_read
from edgehost.manifest.model import Positive, Seconds
from edgehost.plugin import TriggerHost

WATCH_AFTER_S = 0.05
STREAM_GRACE_S = 5.0
"""A stream that still runs when the trigger stops may go on this long: it may have no end of its own."""
MOST_FIELDS = 1000
FILE_HEADER = "x-nuclio-filestream-path"
_OURS = frozenset({"content-length", "transfer-encoding", "connection", "content-type", "date", FILE_HEADER})
"""Header names a function cannot set: they belong to the connection, or the Response has a field for them."""
_BODILESS = frozenset({204, 304})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, 5.5


class HttpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[triggers.NAME]` with `kind = "http"`."""

    routes: tuple[str, ...] = ()
    """Paths the function answers at, `/exact` or `/prefix/*`; empty: `/<function name>/*`."""
    strip: bool | None = None
    """Take the route's prefix off event.path. None: for the function's own `/<name>` only."""
    methods: tuple[Annotated[str, Meta(pattern="^[A-Z]+(-[A-Z]+)*$")], ...] = ()
    """Empty: every method. GET brings HEAD along."""
    body_limit_bytes: Positive | None = None
    """None: the limit of `[http]` in edgehost.toml."""
    wait_s: Seconds = 10.0
    """How long a request may wait for a worker before it is answered 503."""
    cors: Cors | None = None
    files: tuple[str, ...] = ()
    """Folders, beside the function's own and the temporary one, from which `X-nuclio-filestream-path` may stream."""

    def __post_init__(self) -> None:
        for route in self.routes:
            parse_route(route)
        for folder in self.files:
            if not folder.startswith("/"):
                raise ValueError(f"files: {folder!r} is not an absolute path")


class HttpTrigger:
    """See edgehost/plugin.py, Trigger."""

    Settings: ClassVar[type[Struct]] = HttpSettings
    replies: ClassVar[bool] = True

    @staticmethod
    def source_id(event: Event) -> str:
        """The client's own: its header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header)."""
        return event.headers.get("Idempotency-Key", "")

    def __init__(self, settings: HttpSettings, host: TriggerHost) -> None:
        self._host = host
        self._settings = settings
        self._owner = f"function {host.function_name!r}, trigger {host.origin.name!r}"
        self._routes, self._whole = _routes(settings, host)
        self._methods = frozenset({*settings.methods, "HEAD"} if "GET" in settings.methods else settings.methods)
        self._limit_bytes = settings.body_limit_bytes or host.config.http.body_limit_bytes
        self._listener: Listener | None = None
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._pumps: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Claim the routes, and open the listener if this is its first user. TriggerError: address or route is taken."""
        listener: Listener = self._host.shared("http", lambda: Listener(self._host.config.http))
        listener.open()
        listener.claim(self._routes, self.serve, self._owner)
        self._listener = listener
        self._host.report("running", f"{listener.url} at {', '.join(map(str, self._routes))}")

    async def stop(self) -> None:
        """Give the routes up (404 from here on) and wait for the requests in flight."""
        if self._listener is None:
            return
        self._listener.release(self._owner)
        while self._in_flight:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), STREAM_GRACE_S)
            except asyncio.TimeoutError:
                for pump in self._pumps:
                    pump.cancel()
        self._host.report("stopped")

    async def serve(self, scope: Scope, receive: Receive, send: Send, prefix: str) -> None:
        """One request, from its head to the last byte of its answer."""
        self._in_flight += 1
        headers = {canonical(name): value.decode("latin-1") for name, value in scope["headers"]}
        extra: Headers = ()
        assert self._listener is not None
        held = self._listener.bodies.part()
        try:
            if (cors := self._settings.cors) is not None:
                origin = headers.get("Origin", "")
                extra = answer_headers(cors, origin)
                if origin and scope["method"] == "OPTIONS" and "Access-Control-Request-Method" in headers:
                    await self._preflight(cors, origin, headers, send)
                    return
            self._check_method(scope["method"])
            body = await read_body(headers, receive, self._limit_bytes, held.add)
            path = scope["path"] if prefix in self._whole else scope["path"][len(prefix) :] or "/"
            event = event_of(scope, headers, body, path, self._host.origin)
            response = await self._answer(event, receive)
            if self._host.durable:
                response = _received(event, response)
            await self._send(response, scope, extra, receive, send)
        except RefusedError as refused:
            await reply(send, refused.status, refused.message, [*refused.headers, *extra])
        except ClientGoneError:
            pass  # nobody reads an answer
        finally:
            held.let_go()
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    def _check_method(self, method: str) -> None:
        if self._methods and method not in self._methods:
            allow = ", ".join(sorted(self._methods))
            raise RefusedError(405, f"use {allow}", [(b"allow", allow.encode())])

    async def _preflight(self, cors: Cors, origin: str, headers: dict[str, str], send: Send) -> None:
        if not allows(cors, origin):
            raise RefusedError(403, f"pages of {origin} may not call this function")
        asked = headers.get("Access-Control-Request-Headers", "")
        await reply(send, 204, "", preflight_headers(cors, origin, sorted(self._methods), asked))

    async def _answer(self, event: Event, receive: Receive) -> Response:
        """The engine's answer. ClientGoneError if nobody waits for it any more."""
        future = self._host.submit(event)
        watch = _Watch(future, receive, self._host, self._settings.wait_s)
        try:
            return await future
        except asyncio.CancelledError:
            if watch.gone:
                raise ClientGoneError from None
            if watch.late:
                return failure("no_room", f"the event is not on disk after {self._settings.wait_s:g} s; try again")
            raise
        finally:
            watch.end()

    async def _send(self, response: Response, scope: Scope, extra: Headers, receive: Receive, send: Send) -> None:
        chunks, size_bytes = response.chunks, -1 if response.chunks is not None else len(response.body)
        if response.headers and (name := _file_named(response.headers)) is not None:
            await close(chunks)
            file = open_within(self._host.folder / name, self._folders())
            if file is None:
                self._host.log.warning("%s is no file this function may stream; see `files` in docs/http.md", name)
                return await reply(send, 404, "no such file", extra)
            chunks, size_bytes = file, file.size_bytes
            response = Response(response.status, response.content_type, response.headers)
        try:
            if (reason := _unsendable(response.status, size_bytes, scope)) is not None:
                return await reply(send, *reason, extra)
            head = [*self._head(response, size_bytes), *extra]
            await send({"type": "http.response.start", "status": response.status, "headers": head})
            bodiless = scope["method"] == "HEAD" or response.status in _BODILESS
            if chunks is not None and not bodiless:
                return await self._stream(response.body, chunks, receive, send)
            return await send({"type": "http.response.body", "body": b"" if bodiless else response.body})
        finally:
            if chunks is not None:
                await close(chunks)

    async def _stream(self, first: bytes, chunks: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
        """An answer that breaks off is left incomplete: the server then cuts the connection, which the client notices."""
        try:
            complete = await send_while_read(first, chunks, receive, send, self._pumps)
        except OSError as error:
            self._host.log.warning("streamed answer broken off: %s", error)
            return
        if complete:
            await send({"type": "http.response.body", "body": b""})

    def _head(self, response: Response, size_bytes: int) -> list[tuple[bytes, bytes]]:
        head = []
        if response.status not in _BODILESS:
            head.append((b"content-type", _encoded(response.content_type)))
            if size_bytes >= 0:
                head.append((b"content-length", b"%d" % size_bytes))
        for name, value in response.headers.items():
            if name.lower() in _OURS or not isinstance(value, str):
                continue
            if _TOKEN.fullmatch(name) and _VALUE.fullmatch(value):
                head.append((name.encode(), value.encode("latin-1")))
            else:
                self._host.log.warning("answer header %r left out: its name or value cannot be sent over HTTP", name)
        if response.failed and response.status in (429, 503):
            head.append((b"retry-after", b"1"))
        return head

    def _folders(self) -> list[Path]:
        return [self._host.folder, Path(tempfile.gettempdir()), *map(Path, self._settings.files)]


def _routes(settings: HttpSettings, host: TriggerHost) -> tuple[tuple[Route, ...], frozenset[str]]:
    """The routes a trigger claims, and the prefixes that stay in event.path."""
    if settings.routes:
        routes = tuple(parse_route(route) for route in settings.routes)
        return routes, frozenset() if settings.strip else frozenset(route.path for route in routes)
    own, root = Route(f"/{host.function_name}", True), Route("", True)
    whole = frozenset({root.path} if settings.strip in (None, True) else {root.path, own.path})
    return ((own, root) if host.standalone else (own,)), whole


def _received(event: Event, response: Response) -> Response:
    """What the client of a durable trigger is told: a refusal says why in its body; all else, also what an event of the same key
    was answered before, means that the event is the agent's now."""
    if response.failed and response.body:
        return response
    return Response(202, "application/json", body=msgspec.json.encode({"id": event.id}))


class _Watch:
    """Looks after one future that is not there within WATCH_AFTER_S: the client may leave, the wait may grow too long."""

    __slots__ = ("_future", "_host", "_receive", "_task", "_timer", "_wait_s", "gone", "late")

    def __init__(self, future: asyncio.Future[Response], receive: Receive, host: TriggerHost, wait_s: float) -> None:
        self.gone = self.late = False
        self._future, self._receive, self._host, self._wait_s = future, receive, host, wait_s
        self._task: asyncio.Task[None] | None = None
        self._timer = future.get_loop().call_later(min(WATCH_AFTER_S, wait_s), self._begin)

    def _begin(self) -> None:
        self._task = asyncio.ensure_future(self._follow())
        self._timer = self._future.get_loop().call_later(max(0.0, self._wait_s - WATCH_AFTER_S), self._withdraw)

    async def _follow(self) -> None:
        await until_gone(self._receive)
        self.gone = True
        self._future.cancel()
        self._host.withdraw(self._future)

    def _withdraw(self) -> None:
        if not self._host.withdraw(self._future) and self._host.durable and not self._future.done():
            self.late = True  # the disk takes nothing now; whoever waited so long is not told that it did
            self._future.cancel()

    def end(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


def _unsendable(status: int, size_bytes: int, scope: Scope) -> tuple[int, str] | None:
    """Why an answer cannot be sent as it is, as the status and text to send instead. `size_bytes` is -1 for a stream."""
    if not 200 <= status <= 599:
        return 500, f"the function answered {status}, which is not a final HTTP status"
    if size_bytes < 0 and scope["http_version"] == "1.0" and scope["method"] != "HEAD":
        return 505, "this answer is streamed in chunks; ask with HTTP/1.1"  # RFC 9112, 6.1
    return None


def event_of(scope: Scope, headers: dict[str, str], body: bytes, path: str, origin: Origin) -> Event:
    """The Event of a request whose body has been read. RefusedError 400 for a query of too many fields."""
    query = scope["query_string"].decode("latin-1")
    url = f"{scope['scheme']}://{headers.get('Host', '')}{scope['raw_path'].decode('latin-1')}"
    return Event(
        body,
        headers.get("Content-Type", ""),
        str(uuid4()),
        datetime.now(timezone.utc),
        origin,
        path,
        headers,
        scope["method"],
        f"{url}?{query}" if query else url,
        _fields(query) if query else {},
    )


def _fields(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError:
        raise RefusedError(400, f"the query has more than {MOST_FIELDS} fields") from None


@lru_cache(maxsize=1024)
def canonical(name: bytes) -> str:
    """`content-type` as `Content-Type`: the canonical case Nuclio's functions know (Go, textproto.CanonicalMIMEHeaderKey)."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.decode("latin-1").split("-"))


@lru_cache(maxsize=256)
def _encoded(content_type: str) -> bytes:
    """A content type that cannot be sent is the function's own mistake; the body still arrives, as bytes of no known type."""
    return content_type.encode("latin-1") if _VALUE.fullmatch(content_type) else b"application/octet-stream"


def _file_named(headers: dict[str, str]) -> str | None:
    return next((value for name, value in headers.items() if name.lower() == FILE_HEADER and isinstance(value, str)), None)
