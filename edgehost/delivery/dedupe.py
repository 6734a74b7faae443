"""Dedupe: an event that comes again is answered and not run again.

    new                     run; its key is written with its answer, in one transaction
    one with its key runs   joins it: the same answer; but a durable one does not fail with the failure that only the other's
                            sender was told, and is run itself
    one with its key waits  (durable) answered ACCEPTED: it is on disk already
    answered before         its answer, from the journal
    no key                  run in its turn, and counted: its source gave it no id

A key is scoped to its trigger and holds for `keep_s` of the journal's clock. Must not know how an event is run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from edgehost.delivery import faults
from edgehost.delivery.ending import Entry
from edgehost.delivery.inflow import ACCEPTED
from edgehost.delivery.journal import Journal
from edgehost.errors import EdgehostError
from edgehost.event import Event, Response, failure
from edgehost.manifest.model import Dedupe as Rule

if TYPE_CHECKING:
    import sqlite3

Run = Callable[[Event, Entry], "asyncio.Future[Response]"]

_KEY_CHARACTERS = 128
_PURGE_S = 300.0
_NO_KEY = "?"
"""Begins what stands for the key of an event that has none. Real ones begin with the number of their source."""

_decode = msgspec.msgpack.Decoder(Response).decode


def key_of(event: Event, by: str, source_id: Callable[[Event], str]) -> str:
    """What an event is known by; "" if it has nothing. Long ones are hashed."""
    if by == "id":
        key = source_id(event)
    elif by == "body":
        return f"b:{_hash(event.body)}"
    else:
        name = by.removeprefix("header:").lower()
        key = next((value for header, value in event.headers.items() if header.lower() == name), "")
    plain = len(key) <= _KEY_CHARACTERS and (key.isascii() or _is_text(key))
    return key if plain else f"h:{_hash(key.encode('utf-8', 'surrogatepass'))}"


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no database takes
        return False
    return True


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


class _Waiting(NamedTuple):
    """Who waits for the answer to an event."""

    event: Event
    asked: bool
    future: asyncio.Future[Response]


class Dedupe:
    """One trigger's. `run` gives a new event on; assign it anew at an upgrade."""

    def __init__(
        self, queue: int, rule: Rule, source_id: Callable[[Event], str], journal: Journal, counts: Counter[str], run: Run
    ) -> None:
        self.run = run
        self._scope = f"{queue}/"
        self._rule = rule
        self._source_id = source_id
        self._journal = journal
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, list[_Waiting]] = {}
        self._new: list[tuple[str, Event, bool]] = []
        self._entries: dict[str, Entry] = {}
        """Of those that run."""
        self._unnamed = count()
        self._purged_at = 0.0

    def key(self, event: Event) -> str | None:
        """What the journal knows `event` by; None if its source gave it nothing to tell it by."""
        key = key_of(event, self._rule.by, self._source_id)
        return self._scope + key if key else None

    def submit(self, event: Event, asked: bool = False) -> asyncio.Future[Response]:
        """As TriggerHost.submit. `asked`: the sender waits for the function's own answer."""
        key = self.key(event)
        future: asyncio.Future[Response] = self._loop.create_future()
        if key is None:
            self._counts["no_id"] += 1
            key = f"{_NO_KEY}{next(self._unnamed)}"
        elif (same := self._running.get(key)) is not None:
            self._counts["duplicates"] += 1
            same.append(_Waiting(event, asked, future))
            return future
        self._begin(key, [_Waiting(event, asked, future)])
        return future

    def withdraw(self, future: asyncio.Future[Response], take_back: Callable[[asyncio.Future[Response]], bool]) -> bool:
        """As TriggerHost.withdraw, unless somebody else waits for the same event."""
        for key, waiting in self._running.items():
            if [each.future for each in waiting if not each.future.done()] == [future]:
                entry = self._entries.get(key)
                return entry is not None and entry.given is not None and take_back(entry.given)
        return False

    def _begin(self, key: str, waiting: list[_Waiting]) -> None:
        self._running[key] = waiting
        if not self._new:
            self._loop.call_soon(self._look_up)
        self._new.append((key, waiting[0].event, waiting[0].asked))

    def _look_up(self) -> None:
        """One question for all that came in this turn of the loop."""
        new, self._new = self._new, []
        keys = [key for key, _, _ in new if not key.startswith(_NO_KEY)]
        now = self._journal.now()
        if now - self._purged_at > _PURGE_S:
            self._purged_at = now
            self._journal.ask(lambda connection: _purge(connection, now)).add_done_callback(lambda done: done.exception())
        self._journal.ask(lambda connection: _known(connection, keys, now)).add_done_callback(partial(self._looked_up, new))

    def _looked_up(self, new: list[tuple[str, Event, bool]], done: asyncio.Future[dict[str, bytes | None]]) -> None:
        error = done.exception()
        if error is not None:
            text = str(error) if isinstance(error, EdgehostError) else f"the journal cannot be read: {error}"
            for key, _, _ in new:
                self._tell(key, failure("not_ready", text))
            return
        known = done.result()
        for key, event, asked in new:
            if key in known:
                faults.at("dedupe.known")
                self._counts["duplicates"] += 1
                kept = known[key]
                self._tell(key, ACCEPTED if kept is None else _answer(kept))
            else:
                named = None if key.startswith(_NO_KEY) else key
                entry = self._entries[key] = Entry(key=named, keep_s=self._rule.keep_s, asked=asked)
                self.run(event, entry).add_done_callback(partial(self._ran, key, asked))

    def _ran(self, key: str, asked: bool, done: asyncio.Future[Response]) -> None:
        response = done.result()
        waiting = self._running[key]
        # What failed before its sender's eyes is kept nowhere: whoever was told nothing yet has it still to come.
        left = [each for each in waiting if not each.asked and not each.future.done()] if asked and response.code else []
        self._running[key] = [each for each in waiting if each not in left]
        self._tell(key, response)
        if left:
            self._begin(key, left)

    def _tell(self, key: str, response: Response) -> None:
        self._entries.pop(key, None)
        for waiting in self._running.pop(key, ()):
            if not waiting.future.done():
                waiting.future.set_result(response)


def _answer(kept: bytes) -> Response:
    """As it was kept. That it was answered is known even if the answer is damaged."""
    try:
        return _decode(kept)
    except (msgspec.MsgspecError, ValueError, TypeError):
        return Response()


def _known(connection: sqlite3.Connection, keys: list[str], now: float) -> dict[str, bytes | None]:
    """The answers of those that are answered, None for those that wait on disk."""
    found: dict[str, bytes | None] = {}
    for start in range(0, len(keys), 256):
        some = keys[start : start + 256]
        marks = ", ".join("?" * len(some))
        waiting = connection.execute(f"SELECT key FROM events WHERE key IN ({marks})", some)
        found.update(dict.fromkeys(key for (key,) in waiting))
        select = f"SELECT key, response FROM answered WHERE key IN ({marks}) AND until > ?"
        found.update(connection.execute(select, (*some, now)).fetchall())
    return found


def _purge(connection: sqlite3.Connection, now: float) -> None:
    connection.execute("DELETE FROM answered WHERE until <= ?", (now,))
