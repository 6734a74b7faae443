"""Parcel: an answer packed for its way, so that it can wait on disk and leave later, even from another process.

With it goes a Slip, where its receiver takes it in two steps: what has to be known of it on its way. Must not know how either is
sent: where to and as what is an output's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

NUMBERS: Final = range(0x8000, 0x10000)
"""What a parcel may be called on its way: no two have one number, whatever their output. Lower ones are the outputs' own."""


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


class Slip(Protocol):
    """Goes with a parcel that its receiver takes in two steps, so that it is taken once: it has it; it may forget its number."""

    number: int
    """Of NUMBERS: the same however often the parcel is sent, by this process or the next. 0: it has none."""
    begun: bool
    """It may have been sent before, under this number."""
    released: bool
    """The receiver is known to have it: only the second step is left."""

    def release(self, then: Callable[[], None]) -> None:
        """The receiver has it. `then` is called when that is written down, where it has to be: now comes the second step."""
