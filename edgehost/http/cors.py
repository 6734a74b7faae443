"""Cross-origin requests: what a browser is told (Fetch standard, 3.2 "CORS protocol"). Pure: headers in, headers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from edgehost.http.asgi import Headers

ANY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Cors(Struct, frozen=True, forbid_unknown_fields=True):
    """`cors = { allow_origins = ["https://panel.example"] }`: which pages of other origins may call the function."""

    allow_origins: tuple[str, ...] = ("*",)
    allow_methods: tuple[str, ...] = ()
    """Empty: every method the trigger takes."""
    allow_headers: tuple[str, ...] = ()
    """Empty: whichever the browser asks for."""
    expose_headers: tuple[str, ...] = ()
    """Answer headers a page may read beside the few every page may."""
    allow_credentials: bool = False
    max_age_s: Annotated[int, Meta(ge=0)] = 600
    """How long a browser may remember a preflight."""

    def __post_init__(self) -> None:
        if self.allow_credentials and "*" in self.allow_origins:
            raise ValueError('allow_credentials needs named allow_origins: "*" would let every page act as the user')
        for text in (*self.allow_origins, *self.allow_methods, *self.allow_headers, *self.expose_headers):
            if not text.isascii() or not text.isprintable() or "," in text:
                raise ValueError(f"{text!r} cannot stand in a header; give one origin, method or header name an entry")


def allows(cors: Cors, origin: str) -> bool:
    """Whether pages of `origin` may call."""
    return "*" in cors.allow_origins or origin in cors.allow_origins


def answer_headers(cors: Cors, origin: str) -> Headers:
    """What is added to an answer to `origin`; only `Vary`, for caches, if that is not allowed or empty (no page asked)."""
    if "*" in cors.allow_origins:
        headers = [(b"access-control-allow-origin", b"*")]
    else:
        headers = [(b"vary", b"Origin")]
        if not allows(cors, origin):
            return headers
        headers.append((b"access-control-allow-origin", origin.encode("latin-1")))
    if cors.allow_credentials:
        headers.append((b"access-control-allow-credentials", b"true"))
    if cors.expose_headers:
        headers.append((b"access-control-expose-headers", _listed(cors.expose_headers)))
    return headers


def preflight_headers(cors: Cors, origin: str, taken_methods: Sequence[str], asked_headers: str) -> Headers:
    """The answer to an allowed preflight. `taken_methods`: the trigger's; `asked_headers`: what the browser wants to send."""
    methods = cors.allow_methods or taken_methods or ANY_METHOD
    headers = [
        *answer_headers(cors, origin),
        (b"access-control-allow-methods", _listed(methods)),
        (b"access-control-max-age", b"%d" % cors.max_age_s),
    ]
    if allowed := _listed(cors.allow_headers) or asked_headers.encode("latin-1"):
        headers.append((b"access-control-allow-headers", allowed))
    return headers


def _listed(names: Sequence[str]) -> bytes:
    return ", ".join(names).encode()
