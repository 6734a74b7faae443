"""The agent's local control server: answers what the command line asks, on a Unix socket for owner and group.

It turns frames into calls of its Host and answers into frames. A peer that sends garbage, stalls or goes away costs its own
connection and nothing else. Knows nothing of how functions are run, and asks nothing but asyncio and msgspec of the agent.

A connection is answered one request at a time, and one frame is read ahead while a request is worked on: that is how it is seen
that the peer went away, which cancels the call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Iterator
from contextlib import aclosing
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgehost import __version__
from edgehost.control import protocol
from edgehost.control.listener import listen
from edgehost.control.protocol import (
    Answer,
    AskJournal,
    Chunk,
    Done,
    DropLetters,
    FindLetters,
    FunctionList,
    FunctionStatus,
    GpioPulse,
    GpioRead,
    GpioSet,
    GpioWatch,
    Invoke,
    LettersDone,
    ListFunctions,
    Pong,
    Refused,
    Reload,
    Reloaded,
    ReplayLetters,
    ShowLetter,
)
from edgehost.control.stock import JournalStatus
from edgehost.errors import ControlError, EdgehostError
from edgehost.event import Event, Origin, Response
from edgehost.letter import Letters, Which, WholeLetter

if TYPE_CHECKING:
    from edgehost.control.simulated import Simulated

MOST_PEERS = 32
"""More connections than people and scripts need; each may hold one frame in memory."""
LARGE_BYTES = 1024 * 1024
MOST_LARGE = 2
"""How many frames over LARGE_BYTES are read at once, so that peers together can't make the agent hold many of the largest."""
FRAME_S = 30.0
"""A frame begun is finished within this, and a peer takes what it is sent within this."""
IDLE_S = 120.0
"""How long a connection may wait between two requests."""

ORIGIN = Origin("control", "local")

log = logging.getLogger(__name__)


class Host(Protocol):
    """What the server needs of the agent."""

    async def invoke(self, name: str, event: Event) -> Response:
        """Hand `event` to the function and wait. Raises ControlError if no function has that name."""

    def functions(self) -> list[FunctionStatus]:
        """How every function is, now."""

    def troubles(self) -> list[str]:
        """What is wrong with the agent itself, one line each."""

    async def reload(self) -> Reloaded:
        """Read the configuration again. Raises EdgehostError if nothing of it can be used; all is then as it was."""

    def simulated(self) -> Simulated:
        """The simulated GPIO lines. Raises ControlError where none are."""

    async def journal_status(self) -> JournalStatus:
        """How the journal is, and what waits in it."""

    async def find_letters(self, which: Which, limit: int) -> Letters:
        """The newest of the dead letters that are meant. As the next three raises EdgehostError where that cannot be done."""

    async def whole_letter(self, number: int) -> WholeLetter:
        """One dead letter with what it holds."""

    async def replay_letters(self, which: Which) -> int:
        """Put dead letters back where they came from; gives how many."""

    async def drop_letters(self, which: Which) -> int:
        """Remove dead letters; gives how many."""


class LocalServer:
    """The server at one address. `start` binds, `stop` ends every conversation and removes the socket."""

    def __init__(self, address: Path, host: Host) -> None:
        self.address = address
        self._host = host
        self._started = time.time()
        self._server: asyncio.AbstractServer | None = None
        self._inode = 0
        self._peers: set[asyncio.Task[None]] = set()
        self._large = asyncio.Semaphore(MOST_LARGE)

    async def start(self) -> None:
        """Listen. Raises ControlError if another agent answers at the address or the socket can't be made."""
        listener = listen(self.address)
        self._inode = self.address.stat().st_ino
        self._server = await asyncio.start_unix_server(self._accept, sock=listener)

    async def stop(self) -> None:
        """Take no new connection, cancel the calls in progress, remove the socket if it is still this server's."""
        if self._server is None:
            return
        self._server.close()
        for peer in self._peers:
            peer.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)
        self._server = None
        try:
            if self.address.stat().st_ino == self._inode:
                self.address.unlink()
        except FileNotFoundError:
            pass  # asyncio removes it itself from Python 3.13 on

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = asyncio.ensure_future(self._serve(reader, writer))
        self._peers.add(peer)
        peer.add_done_callback(self._peers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._peers) > MOST_PEERS:
                raise ControlError(f"{MOST_PEERS} connections are open already; close one")
            await self._converse(reader, writer)
        except ControlError as error:
            log.warning("local control: a connection was closed: %s", error)
            writer.write(protocol.encode(Refused("protocol", str(error))))
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
            log.debug("local control: a peer went away: %r", error)
        except Exception:
            log.exception("local control: a connection failed")
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ahead = asyncio.ensure_future(self._read_frame(reader))
        try:
            while (frame := await asyncio.wait_for(ahead, IDLE_S)) is not None:
                ahead = asyncio.ensure_future(self._read_frame(reader))
                await _unless_gone(self._reply(protocol.decode_request(frame), writer), ahead)
        finally:
            await _end(ahead)

    async def _read_frame(self, reader: asyncio.StreamReader) -> bytes | None:
        """The next frame's payload, None at the end of the connection."""
        try:
            header = await reader.readexactly(protocol.HEADER.size)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        size = protocol.payload_size(header)
        if size <= LARGE_BYTES:
            return await asyncio.wait_for(reader.readexactly(size), FRAME_S)
        async with self._large:
            return await asyncio.wait_for(reader.readexactly(size), FRAME_S)

    async def _reply(self, request: protocol.Request, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(request, Invoke):
                await self._invoke(request, writer)
            elif isinstance(request, ListFunctions):
                await _send(writer, FunctionList(self._host.functions()))
            elif isinstance(request, Reload):
                await _send(writer, await self._host.reload())
            elif isinstance(request, (GpioRead, GpioSet, GpioPulse, GpioWatch)):
                await _gpio(self._host.simulated(), request, writer)
            elif isinstance(request, AskJournal):
                await _send(writer, await self._host.journal_status())
            elif isinstance(request, (FindLetters, ShowLetter, ReplayLetters, DropLetters)):
                await _send(writer, await _letters(self._host, request))
            else:
                await _send(writer, Pong(__version__, os.getpid(), self._started, troubles=self._host.troubles()))
        except EdgehostError as error:
            await _send(writer, Refused(error.code, str(error)))

    async def _invoke(self, request: Invoke, writer: asyncio.StreamWriter) -> None:
        began = time.perf_counter()
        response = await self._host.invoke(request.function, event_of(request))
        await _send(writer, Answer(response.status, response.content_type, response.headers, response.code))
        for piece in _pieces(response.body):
            await _send(writer, Chunk(piece))
        error = await _send_chunks(response, writer)
        await _send(writer, Done((time.perf_counter() - began) * 1000.0, error))


def event_of(request: Invoke) -> Event:
    """The event a request asks for, received now."""
    return Event(
        body=request.body,
        content_type=request.content_type,
        id=str(uuid.uuid4()),
        timestamp=datetime.now(timezone.utc),
        trigger=ORIGIN,
        path=request.path or "/",
        headers=request.headers,
        method=request.method,
    )


async def _gpio(lines: Simulated, request: GpioRead | GpioSet | GpioPulse | GpioWatch, writer: asyncio.StreamWriter) -> None:
    if isinstance(request, GpioWatch):
        async with aclosing(lines.watch(request.lines)) as changes:
            async for change in changes:
                await _send(writer, change)
    elif isinstance(request, GpioPulse):
        await _send(writer, await lines.pulse(request))
    elif isinstance(request, GpioSet):
        await _send(writer, lines.pull(request.line, request.high))
    else:
        await _send(writer, lines.read(request.lines))


async def _letters(host: Host, request: protocol.LetterRequest) -> protocol.Reply:
    if isinstance(request, FindLetters):
        return await host.find_letters(request.which, request.limit)
    if isinstance(request, ShowLetter):
        return await host.whole_letter(request.number)
    if isinstance(request, ReplayLetters):
        return LettersDone(await host.replay_letters(request.which))
    return LettersDone(await host.drop_letters(request.which))


def _pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), protocol.PIECE_BYTES):
        yield body[start : start + protocol.PIECE_BYTES]


async def _send_chunks(response: Response, writer: asyncio.StreamWriter) -> str:
    """Pass a streamed answer on. Returns why it broke off, empty if it ended well."""
    chunks = response.chunks
    if chunks is None:
        return ""
    try:
        while True:
            try:
                data = await anext(chunks)
            except StopAsyncIteration:
                return ""
            except (EdgehostError, OSError) as error:  # the function's stream broke, not this connection
                return str(error)
            for piece in _pieces(data):
                await _send(writer, Chunk(piece))
    finally:
        await chunks.aclose()


async def _send(writer: asyncio.StreamWriter, reply: protocol.Reply) -> None:
    writer.write(protocol.encode(reply))
    await asyncio.wait_for(writer.drain(), FRAME_S)


async def _unless_gone(work: Awaitable[None], ahead: asyncio.Future[bytes | None]) -> None:
    """Do `work`, but cancel it when the frame read ahead turns out to be the end of the connection."""
    task = asyncio.ensure_future(work)
    try:
        pair: set[asyncio.Future[Any]] = {task, ahead}
        await asyncio.wait(pair, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and (ahead.exception() is not None or ahead.result() is None):
            return
        await task
    finally:
        await _end(task)


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
