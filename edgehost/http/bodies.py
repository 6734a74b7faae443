"""Bodies: how many bytes of request bodies the agent holds, from the first byte that came to the answer, and the most it may.

Connections and the size of one body are bounded, but not tightly enough together: 256 clients of 4 MiB are a gigabyte. Must not
know what a body is for.
"""

from __future__ import annotations

from edgehost.http.asgi import RefusedError

MOST_BYTES = 64 * 1024 * 1024


class Bodies:
    """Of one listener."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.held_bytes = 0
        self._most_bytes = most_bytes

    def part(self) -> Part:
        """What one request will hold of it: nothing yet."""
        return Part(self)

    def fits(self, own_bytes: int, more_bytes: int) -> bool:
        """A body that is alone always does: its own limit bounds it."""
        return self.held_bytes + more_bytes <= self._most_bytes or self.held_bytes == own_bytes


class Part:
    """One request's."""

    __slots__ = ("_bodies", "_bytes")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._bytes = 0

    def add(self, size_bytes: int) -> None:
        """So much has come. RefusedError 429 if the bodies of others leave no room for it."""
        if not self._bodies.fits(self._bytes, size_bytes):
            raise RefusedError(429, "too much is being sent at once; try again", [(b"retry-after", b"1")])
        self._bytes += size_bytes
        self._bodies.held_bytes += size_bytes

    def let_go(self) -> None:
        """It is answered."""
        self._bodies.held_bytes -= self._bytes
        self._bytes = 0
