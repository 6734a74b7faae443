"""Records that a server or a database holds, asked for on an interval: one event for each that is new or has changed.

    read and sift (edgehost/polling) in a thread ─► events, `max_in_flight` at a time ─► all answered ─► memory saved ─► next beat
The memory moves only when the function has answered every event of a read: one that was cut off (the agent ended, the power went)
is read again, and its events come again with the same ids. While the function is slow nothing is read: records wait at home.

A new source is one small class with a Settings struct and `read`: see `source.py`.
"""

from __future__ import annotations

import asyncio
import os
from datetime import datetime, timezone
from functools import partial
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from edgehost.errors import StateError, TriggerError
from edgehost.event import Event, Response
from edgehost.intake import NOT_HANDLED, Intake, IntakeSettings
from edgehost.plugin import TriggerHost
from edgehost.polling import Found, Memory, Poller, Rules, Sifted, in_thread, sift
from edgehost.state import StateFile, state_folder
from edgehost.triggers.poll.settings import PollSettings
from edgehost.triggers.poll.source import Around, Source

CHANGE_HEADER = "X-Edgehost-Change"


class Remembered(Struct, frozen=True):
    """What the state file holds. `key` and `cursor` are those of the manifest then: with others, the memory means nothing."""

    key: tuple[str, ...]
    cursor: str
    memory: Memory


class PollTrigger:
    """See edgehost/plugin.py, Trigger."""

    Settings: ClassVar[type[Struct]] = PollSettings
    replies: ClassVar[bool] = False

    @staticmethod
    def source_id(event: Event) -> str:
        """The number of the read that found the record first, as it is remembered, and the record's content."""
        return event.id

    def __init__(self, settings: PollSettings, host: TriggerHost) -> None:
        self._settings = settings
        self._host = host
        self._rules = Rules(settings.keys, settings.cursor, settings.emit)
        self._name = f"poll {host.function_name}/{host.origin.name}"
        folder = state_folder(host.config.state, os.environ, os.getuid()) / "poll" / quote(host.function_name, safe="")
        self._file = StateFile(folder / f"{quote(host.origin.name, safe='')}.json", Remembered)
        self._source = self._made()
        self._memory: Memory | None = None
        self._saved: Memory | None = None
        self._poller = Poller(settings.interval_s, settings.first, self._read, host)
        self._room = asyncio.Event()
        self._intake = Intake(IntakeSettings(max_in_flight=settings.max_in_flight), host, self._room.set)
        self._unhandled = 0
        self._stopping = False
        self._reading: asyncio.Future[Any] | None = None
        self._delivery: asyncio.Task[str] | None = None

    async def start(self) -> None:
        """Begin to read. What cannot be reached or read is a state, and tried again."""
        self._poller.start(self._name)

    async def stop(self) -> None:
        """Break off a read; return when every event handed over has been answered, and remembered if it was the read's last."""
        self._stopping = True
        self._room.set()
        await self._poller.stop()
        if self._delivery is not None:
            await asyncio.wait({self._delivery})
        if self._reading is not None and not self._reading.done():
            self._reading.add_done_callback(asyncio.Future.exception)  # nobody wants to know any more
            self._source.interrupt()
            await asyncio.wait({self._reading}, timeout=self._settings.timeout_s)

    def _made(self) -> Source:
        settings = self._settings
        return settings.source(Around(self._host.folder, settings.timeout_s, settings.max_records, settings.cursor))

    async def _read(self) -> str:
        """One read to its end; what of it did not work."""
        if self._memory is None:
            self._memory = self._saved = await in_thread(self._load, self._name)
        fetched = await self._fetch(self._memory)
        if fetched is None:
            self._host.counts["unchanged"] += 1
            return await self._save()
        count, sifted = fetched
        self._host.counts["records"] += count
        if sifted.unfit:
            self._host.counts["unfit"] += len(sifted.unfit)
        self._delivery = asyncio.create_task(self._deliver(sifted))
        not_saved = await asyncio.shield(self._delivery)
        return "; ".join(filter(None, [_unfit(sifted.unfit), not_saved]))

    async def _fetch(self, memory: Memory) -> tuple[int, Sifted] | None:
        """How many records the source holds, and what they come to; None if nothing has changed. A thread's work: to sift a
        million takes seconds. A read that takes longer than it may is interrupted, and raises then."""
        self._reading = reading = in_thread(partial(self._sifted, self._source, memory), self._name)
        timer = asyncio.get_running_loop().call_later(self._settings.timeout_s, self._source.interrupt)
        try:
            return await asyncio.shield(reading)
        finally:
            timer.cancel()

    def _sifted(self, source: Source, memory: Memory) -> tuple[int, Sifted] | None:
        records = source.read(self._settings.start if memory.cursor is None else memory.cursor)
        return None if records is None else (len(records), sift(records, self._rules, memory))

    async def _deliver(self, sifted: Sifted) -> str:
        """Hand over what was found, as fast as the function takes it; once all of it is answered, move the memory and save it."""
        self._unhandled = 0
        for found in sifted.found:
            while self._intake.full and not self._stopping:
                self._room.clear()
                await self._room.wait()
            if self._stopping:
                self._unhandled += 1
                break
            self._intake.offer(self._event(found), self._answered)
        await self._intake.drain()
        if not self._unhandled:
            self._memory = sifted.memory
            return await self._save()
        if not self._stopping:
            self._source = self._made()  # one that takes nothing for known
            raise TriggerError("the function is not there to take the records; they are read again")
        return ""

    def _answered(self, response: Response) -> None:
        self._unhandled += response.code in NOT_HANDLED

    def _event(self, found: Found) -> Event:
        assert self._memory is not None
        text = found.record if isinstance(found.record, str) and self._settings.textual else None
        return Event(
            msgspec.json.encode(found.record) if text is None else text.encode(),
            "application/json" if text is None else "text/plain",
            f"{self._host.origin.name}-{self._memory.count}-{found.digest}",
            datetime.now(timezone.utc),
            self._host.origin,
            headers={CHANGE_HEADER: found.change},
            url=self._source.url,
        )

    def _load(self) -> Memory:
        remembered = self._file.load()
        if remembered is None:
            return Memory()
        if (remembered.key, remembered.cursor) != (self._rules.key, self._rules.cursor):
            self._host.log.warning("key or cursor is another than before: what was read is forgotten, everything is new")
            return Memory()
        return remembered.memory

    async def _save(self) -> str:
        """Write down the memory if it has moved; why that failed. Reading goes on then, with the memory the agent has."""
        if self._memory is None or self._memory is self._saved:
            return ""
        remembered = Remembered(self._rules.key, self._rules.cursor, self._memory)
        try:
            await in_thread(partial(self._file.save, remembered), self._name)
        except StateError as error:
            return f"{error}; after a restart records come again"
        self._saved = remembered.memory
        return ""


def _unfit(reasons: tuple[str, ...]) -> str:
    if not reasons:
        return ""
    return reasons[0] if len(reasons) == 1 else f"{reasons[0]} (and {len(reasons) - 1} more records are left out)"
