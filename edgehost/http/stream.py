"""A streamed answer on its way to a client: each chunk as it comes, until the chunks end or the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from edgehost.http.asgi import Receive, Send, until_gone


async def send_while_read(
    first: bytes, chunks: AsyncIterator[bytes], receive: Receive, send: Send, pumps: set[asyncio.Task[None]]
) -> bool:
    """Send `first` and every chunk: True. False if the client left, or somebody cancelled our task in `pumps`.

    Raises what the iterator raised. Does not end the answer and does not close the iterator.
    """
    pump = asyncio.ensure_future(_pump(first, chunks, send))
    gone = asyncio.ensure_future(until_gone(receive))
    pumps.add(pump)
    try:
        await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pumps.discard(pump)
        gone.cancel()
        pump.cancel()
        await asyncio.wait({pump})
    if pump.cancelled():
        return False
    pump.result()
    return True


async def _pump(first: bytes, chunks: AsyncIterator[bytes], send: Send) -> None:
    if first:
        await send({"type": "http.response.body", "body": first, "more_body": True})
    async for chunk in chunks:
        if chunk:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def close(chunks: object) -> None:
    """Close what can be closed: an async generator or the engine's stream; a plain async iterator has no end to tell."""
    aclose = getattr(chunks, "aclose", None)
    if aclose is not None:
        await aclose()
