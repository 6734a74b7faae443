"""Fetch: one GET in a thread of its own, with redirects, gzip, a size limit, and an end from outside.

http.client and not asyncio streams: chunks, TLS and answers that end early are in it, and tested for decades; the price is a
thread for as long as a request lasts. A connection for each request: polls are seconds to hours apart.

A redirect is followed to the same or another host, never from https to http; secrets go to the first host alone.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import zlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from urllib.parse import SplitResult, urldefrag, urljoin, urlsplit

from edgehost import __version__
from edgehost.errors import TriggerError
from edgehost.trust import distrust

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5
_PIECE_BYTES = 65536


@dataclass(frozen=True)
class Answer:
    """A whole answer. The names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Fetch:
    """Gets one URL after another, one at a time. `timeout_s` is for each step; the whole is for the caller to `interrupt`."""

    def __init__(self, timeout_s: float, limit_bytes: int, ca_file: str) -> None:
        self._timeout_s = timeout_s
        self._limit_bytes = limit_bytes
        self._ca_file = ca_file
        self._socket: socket.socket | None = None
        self._interrupted = False

    def get(self, url: str, headers: dict[str, str], secrets: dict[str, str]) -> Answer:
        """The answer of the last of the redirects. Raises TriggerError for what is no whole answer."""
        self._interrupted = False
        first = urlsplit(url)
        for _ in range(_MOST_REDIRECTS + 1):
            parts = urlsplit(url)
            own = {**headers, **secrets} if _origin(parts) == _origin(first) else headers
            answer = self._exchange(parts, own)
            if answer.status not in _REDIRECTS or "location" not in answer.headers:
                return answer
            url = _next(url, answer.headers["location"])
        raise TriggerError(f"{_said(first)} leads through more than {_MOST_REDIRECTS} redirects; name the last address")

    def interrupt(self) -> None:
        """Make the request under way fail; called from another thread."""
        self._interrupted = True
        if self._socket is not None:
            with suppress(OSError):  # it may have ended by itself
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _exchange(self, url: SplitResult, headers: dict[str, str]) -> Answer:
        connection = self._connection(url)
        try:
            connection.connect()
            self._socket = connection.sock
            if self._interrupted:
                raise TimeoutError
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            standard = {"User-Agent": f"edgehost/{__version__}", "Accept-Encoding": "gzip", "Connection": "close"}
            connection.request("GET", target, headers={**standard, **headers})
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            body = self._body(answer, told) if answer.status == 200 else b""
            if self._interrupted:  # a cut connection looks like the end of a head or of a body without length
                raise TimeoutError
            return Answer(answer.status, told, body)
        except (OSError, http.client.HTTPException, ValueError, zlib.error) as error:
            raise TriggerError(self._reason(url, error)) from error
        finally:
            self._socket = None
            connection.close()

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        if url.scheme == "http":
            return http.client.HTTPConnection(url.hostname or "", url.port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(url.hostname or "", url.port, timeout=self._timeout_s, context=self._trust)

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise TriggerError(f"http.ca_file: {self._ca_file} holds no certificates: {error}") from error

    def _body(self, answer: http.client.HTTPResponse, headers: dict[str, str]) -> bytes:
        """The body, unpacked; never more than the limit in memory."""
        packed = headers.get("content-encoding", "").lower() in ("gzip", "x-gzip")
        unpack = zlib.decompressobj(31) if packed else None
        body = bytearray()
        while piece := answer.read(_PIECE_BYTES):
            body += unpack.decompress(piece, self._limit_bytes + 1 - len(body)) if unpack else piece
            if len(body) > self._limit_bytes:
                raise TriggerError(f"the answer is longer than {self._limit_bytes} bytes; ask for less, or raise http.body_limit")
        if answer.length or (unpack is not None and not unpack.eof):  # read() with a size tells nobody
            raise http.client.IncompleteRead(b"")
        return bytes(body)

    def _reason(self, url: SplitResult, error: Exception) -> str:
        if self._interrupted or isinstance(error, TimeoutError):
            return f"{_said(url)} did not answer within {self._timeout_s:g} s"
        if isinstance(error, http.client.IncompleteRead):
            return f"{_said(url)} broke off in the middle of its answer"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{_said(url)} has a certificate that is not trusted: {distrust(error, 'http.ca_file', datetime.now())}"
        return f"{_said(url)} cannot be reached: {error or type(error).__name__}"


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _next(url: str, location: str) -> str:
    there = urldefrag(urljoin(url, location)).url
    parts, said = urlsplit(there), _said(urlsplit(url))
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not there.isascii()
        or not there.isprintable()
        or " " in there
    ):
        raise TriggerError(f"{said} leads to {parts.scheme or 'nowhere'!r}, which is not followed; name the last address")
    if url.startswith("https:") and parts.scheme == "http":
        raise TriggerError(f"{said} leads from https to http, which is not followed; name an https address")
    return there


def _said(url: SplitResult) -> str:
    """A URL for people: a query may hold a key."""
    return f"{url.scheme}://{url.netloc}{url.path}"
