"""What a handler's return value becomes: the tables of the handler contract as functions. Pure; knows no worker and no channel.

Everything ends as `edgehost.event.Response`. Bytes, str and dict are told apart first: nearly every answer is one of them.
A foreign Response (nuclio-sdk's, say) is known by its shape: `body`, `headers`, `content_type` and `status_code`.
"""

from __future__ import annotations

import asyncio
import logging
import operator
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Generator, Sequence
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from edgehost.event import Response as WireResponse
from edgehost.sdk.event import Event
from edgehost.sdk.jsonable import JSON, dumps
from edgehost.sdk.response import NO_ACK, Response

TEXT = "text/plain"
_PLAIN = frozenset({bytes, str, dict, list, tuple, bytearray, memoryview, type(None), int, float, bool, set})
_GENERATORS = frozenset({GeneratorType, AsyncGeneratorType})
_SHAPE = ("body", "headers", "content_type", "status_code")


def to_response(result: Any) -> WireResponse:
    """The Response a single (not streamed) result means.

    Raises TypeError or ValueError, with a message for the function's author, for a status that is none, for JSON's impossible
    keys and circles, and for a coroutine nobody awaited.
    """
    kind = type(result)
    if kind is bytes:
        return WireResponse(200, TEXT, {}, result)
    if kind is str:
        return WireResponse(200, TEXT, {}, _text(result))
    if kind is dict or kind is list:
        return WireResponse(200, JSON, {}, dumps(result).encode())
    return _from_other(result)


def _from_other(result: Any) -> WireResponse:
    if type(result) is Response:
        return _from_object(result)
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], int) and not isinstance(result[0], bool):
        return _from_pair(*result)
    if isinstance(result, (dict, list)):
        return WireResponse(200, JSON, {}, dumps(result).encode())
    if _is_response(result):
        return _from_object(result)
    if isinstance(result, CoroutineType):
        result.close()
        raise TypeError(f"the handler returned a coroutine ({result.__qualname__}) and did not await it; make it `async def`")
    return WireResponse(200, TEXT, {}, _raw(result))


def _from_pair(status: int, body: Any) -> WireResponse:
    if isinstance(body, str):
        return WireResponse(_status(status), TEXT, {}, _text(body))
    return WireResponse(_status(status), JSON, {}, dumps(body).encode())


def _from_object(result: Any) -> WireResponse:
    if isinstance(result.body, dict):
        content_type, body = JSON, dumps(result.body).encode()
    else:
        content_type, body = str(result.content_type or TEXT), _raw(result.body)
    event_id = str(getattr(result, "event_id", None) or "")
    return WireResponse(_status(result.status_code), content_type, _headers(result.headers), body, "", event_id)


def _is_response(result: Any) -> bool:
    kind = type(result)
    return kind is Response or (kind not in _PLAIN and all(hasattr(result, name) for name in _SHAPE))


def _status(value: Any) -> int:
    try:
        status = operator.index(value)
    except TypeError:
        raise TypeError(f"status_code {value!r} is not a number; an HTTP status is an int from 100 to 999") from None
    if not 100 <= status <= 999:
        raise ValueError(f"status_code {status} is not an HTTP status; use an int from 100 to 999")
    return status


def _headers(headers: Any) -> dict[str, str]:
    """Only headers whose name and value are strings travel; the no-ack marker is between the handler and its worker."""
    if not headers:
        return {}
    return {name: value for name, value in headers.items() if isinstance(name, str) and isinstance(value, str) and name != NO_ACK}


def _text(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate, as json.loads and os.fsdecode make them
        return text.encode("utf-8", "replace")


def _raw(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return _text(value if isinstance(value, str) else str(value))


def holds_ack(result: Any) -> bool:
    """True if `result` is a Response whose `ensure_no_ack()` was called."""
    kind = type(result)
    if kind is not Response and (kind in _PLAIN or not _is_response(result)):
        return False
    return bool(result.headers and result.headers.get(NO_ACK))


def batch_responses(results: Any, events: Sequence[Event]) -> list[WireResponse]:
    """One Response for each event, in the order of the events: the answer that names its id, else an empty 200.

    Events may share an id (every MQTT message at QoS 0 has "0"): answers to the same id go to its events in order.
    """
    waiting: defaultdict[str, deque[int]] = defaultdict(deque)
    for place, event in enumerate(events):
        waiting[str(event.id)].append(place)
    members = [WireResponse(200, TEXT, {}, b"", "", str(event.id)) for event in events]
    lost = 0
    for result in _members(results):
        response = to_response(result)
        if places := waiting.get(response.event_id):
            members[places.popleft()] = response
        else:
            lost += 1
    if lost:
        logging.getLogger("edgehost.batch").warning(
            "%d answers to a batch of %d events were dropped: return Responses whose event_id is the id of an event of the batch",
            lost,
            len(events),
        )
    return members


def _members(results: Any) -> Sequence[Any]:
    if results is None:
        return ()
    return results if isinstance(results, (list, tuple)) else (results,)


def is_stream(result: Any) -> bool:
    """True for a generator, an async generator, and a Response that has one as its body."""
    kind = type(result)
    if kind in _PLAIN:
        return False
    return kind in _GENERATORS or (type(getattr(result, "body", None)) in _GENERATORS and _is_response(result))


def open_stream(result: Any) -> Generator[WireResponse | bytes, None, None]:
    """The head of a stream (status, headers, the first item as body), then the other items as bytes.

    Raises what the handler raises. An async generator is driven on a loop of its own, so no loop may run here.
    """
    head, items = _parts(result)
    source = items if isinstance(items, GeneratorType) else _driven(items)
    try:
        opened = False
        for item in source:
            yield _chunk(item) if opened else _head(head, item)
            opened = True
        if not opened:
            yield _empty(head)
    finally:
        source.close()


async def open_async_stream(result: Any) -> AsyncGenerator[WireResponse | bytes, None]:
    """`open_stream` for a running loop. A plain generator runs on that loop and holds it up between items, as under Nuclio."""
    head, items = _parts(result)
    source = items if isinstance(items, AsyncGeneratorType) else _stepped(items)
    try:
        opened = False
        async for item in source:
            yield _chunk(item) if opened else _head(head, item)
            opened = True
        if not opened:
            yield _empty(head)
    finally:
        await source.aclose()


def _parts(result: Any) -> tuple[Any, Any]:
    """The Response around a stream, if there is one, and its items."""
    return (None, result) if type(result) in _GENERATORS else (result, result.body)


def _head(head: Any, item: Any) -> WireResponse:
    """The first item decides like any return value; a Response around the stream wins over it and takes only its body."""
    if head is None:
        return to_response(item)
    body = item.body if _is_response(item) else item
    return _from_object(Response(head.headers, body, head.content_type, head.status_code, getattr(head, "event_id", None)))


def _empty(head: Any) -> WireResponse:
    return WireResponse() if head is None else _head(head, b"")


def _chunk(item: Any) -> bytes:
    return _raw(item.body if _is_response(item) else item)


def _driven(items: AsyncGeneratorType[Any, Any]) -> Generator[Any, None, None]:
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(items.__anext__())
            except StopAsyncIteration:
                return
    finally:
        loop.run_until_complete(items.aclose())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _stepped(items: GeneratorType[Any, Any, Any]) -> AsyncGenerator[Any, None]:
    try:
        for item in items:
            yield item
    finally:
        items.close()
