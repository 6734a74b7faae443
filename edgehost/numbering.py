"""Numbering: ids for events whose source gives them none.

An id goes on with what the event causes, as the idempotency key of a request say, so a counter that begins anew with each start
would give two events one id. Must not know what an event is made from.
"""

from __future__ import annotations

import secrets


class Numbering:
    """`name-run-1`, `name-run-2` and so on; `run` is another one for each start. Random: a device's clock may say anything."""

    def __init__(self, name: str) -> None:
        self.count = 0
        self._prefix = f"{name}-{secrets.token_hex(4)}-"

    def next(self) -> str:
        self.count += 1
        return f"{self._prefix}{self.count}"
