"""Parcel: an answer packed for its way, so that it can wait on disk and leave later, even from another process.

A value. Must not know how it is sent: where to and as what is its output's to say.
"""

from __future__ import annotations

from msgspec import Struct


class Parcel(Struct, frozen=True, array_like=True, gc=False):
    """What an output sends. `id` is the same however often it leaves: a receiver can tell a repetition by it."""

    to: str
    """Where to, within its output (a topic, a URL). Parcels to one place keep their order."""
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = {}
    id: str = ""
    published: float = 0.0
    """Unix time at which it was packed."""
