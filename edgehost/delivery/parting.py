"""Parting: what leaves with the end of an event: its answer and what its handler published, each by its output.

    its output has a place on disk     a parcel, for the transaction in which the event ends
    it has none (a pin, a log)         sent before that, at least once

Must not know how often an event was tried, or what becomes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from secrets import token_hex

from edgehost.delivery.ending import Entry
from edgehost.delivery.lane import Lane
from edgehost.delivery.route import Route
from edgehost.engine.call import BrokenOffError, whole
from edgehost.errors import EdgehostError, TriggerError
from edgehost.event import Event, Response, failure
from edgehost.parcel import Parcel


def published(entry: Entry, routes: Sequence[Route]) -> list[tuple[Route, Event]]:
    """What the handler has published in the try that counts, in its order, and which way. An event that was handed over at an
    upgrade was handled by another version than the one it was given to: its outputs may have gone."""
    found: list[tuple[Route, Event]] = []
    for publication in entry.kept:
        route = next((route for route in routes if route.spec.name == publication.output), None)
        if route is None:
            raise TriggerError(f"[outputs.{publication.output}], to which it published, is gone with an upgrade")
        found.append((route, publication.event))
    return found


async def opened(routes: Sequence[Route]) -> None:
    """Whoever has the journal for the event has it for its outputs: what can be stored is."""
    for route in routes:
        if route.lane is not None and not route.lane.opened:
            with suppress(EdgehostError):
                await route.lane.open()


def name_of(event: Event, entry: Entry) -> str:
    """What the parcels of an event are called after: its id, which is the same when its source gives it again. A mere number that
    is no id of the source's (an MQTT packet id) is another event's tomorrow, so the place on disk goes with it.
    """
    if entry.key is not None or not event.id.isdigit() or event.headers.get("id") == event.id:
        return event.id
    return f"{event.id}-{entry.place:x}" if entry.place else f"{event.id}-{token_hex(4)}"


def divided(
    event: Event, entry: Entry, response: Response, routes: Sequence[Route], said: Sequence[tuple[Route, Event]]
) -> tuple[list[tuple[Lane, Parcel]], list[Awaitable[None]]]:
    """What is stored with the event's end, in the order in which it was published, and what has been sent at once."""
    parcels: list[tuple[Lane, Parcel]] = []
    waits: list[Awaitable[None]] = []
    name = name_of(event, entry)
    first = [(route, each, Response(200, each.content_type, each.headers, each.body)) for route, each in said]
    for number, (route, about, answer) in enumerate([*first, *((route, event, response) for route in routes)]):
        if route.lane is not None and route.lane.opened:
            parcels.append((route.lane, route.parcel(about, answer, name, number if number < len(first) else None)))
        elif (wait := route.send(about, answer)) is not None:
            waits.append(wait)
    return parcels, waits


async def in_one_piece(response: Response) -> Response:
    """A stream read to its end; one that breaks off is a failure."""
    try:
        return await whole(response)
    except BrokenOffError as error:
        return failure(error.code, f"its stream broke off: {error}")


async def all_sent(waits: Sequence[Awaitable[None]]) -> None:
    """Wait for every one, then raise the first error: an output that fails does not keep the others from finishing."""
    for result in await asyncio.gather(*waits, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
