"""The other end of the local socket: how the command line asks the running agent. Blocking, no asyncio: one question each."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from edgehost.control import protocol
from edgehost.control.address import belongs_to_another, client_addresses
from edgehost.control.protocol import Answer, Chunk, Done, FunctionStatus, Invoke, ListFunctions, Ping, Pong, Refused
from edgehost.control.stock import JournalStatus
from edgehost.errors import ControlError, EdgehostError
from edgehost.letter import Letters, Which, WholeLetter


class NoAgentError(ControlError):
    """No agent answers, or this user may not talk to it."""

    code = "no_agent"


class RefusedError(EdgehostError):
    """The agent answered, and said no. `code` is the agent's own (`control`: no such function)."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.code = refused.code


class AnswerTimeoutError(ControlError):
    """The agent did not answer in time."""

    code = "answer_timeout"


class Client:
    """One connection to an agent. Every method raises NoAgentError if it breaks, RefusedError, or AnswerTimeoutError."""

    def __init__(self, peer: socket.socket, address: Path) -> None:
        self.address = address
        self._peer = peer
        self._stream = peer.makefile("rb")

    @classmethod
    def connect(cls, given: Path | None = None, timeout_s: float | None = None) -> Client:
        """Connect to the agent at `given`, else to the first found where agents usually are. `timeout_s` bounds each wait."""
        addresses = client_addresses(given, os.environ, os.getuid())
        problems = []
        for address in addresses:
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                if belongs_to_another(address, os.getuid()):
                    raise PermissionError(0, "the folder belongs to another user")
                peer.settimeout(timeout_s)
                peer.connect(os.fspath(address))
            except OSError as error:
                peer.close()
                problems.append(f"{address} ({_reason(error)})")
            else:
                return cls(peer, address)
        raise NoAgentError(f"no agent answers at {' or '.join(problems)}; start one with `edgehost run FOLDER`, or give --socket")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; what was asked and not answered is cancelled."""
        self._stream.close()
        self._peer.close()

    def ping(self) -> Pong:
        """Which agent this is."""
        reply = self._ask(Ping())
        return reply if isinstance(reply, Pong) else self._unexpected(reply)

    def functions(self) -> list[FunctionStatus]:
        """How its functions are."""
        reply = self._ask(ListFunctions())
        return reply.functions if isinstance(reply, protocol.FunctionList) else self._unexpected(reply)

    def reload(self) -> protocol.Reloaded:
        """Have it read its configuration again, and wait until it has. RefusedError: nothing of it can be used."""
        reply = self._ask(protocol.Reload())
        return reply if isinstance(reply, protocol.Reloaded) else self._unexpected(reply)

    def gpio(self, request: protocol.GpioRead | protocol.GpioSet | protocol.GpioPulse) -> list[protocol.GpioLine]:
        """Read, pull or pulse simulated lines: how they are then."""
        reply = self._ask(request)
        return reply.lines if isinstance(reply, protocol.GpioLines) else self._unexpected(reply)

    def gpio_watch(self, lines: list[str]) -> Iterator[protocol.GpioLines | protocol.GpioChanges]:
        """How simulated lines are, then each change, for as long as you read on."""
        reply = self._ask(protocol.GpioWatch(lines))
        while True:
            if not isinstance(reply, (protocol.GpioLines, protocol.GpioChanges)):
                self._unexpected(reply)
            yield reply
            reply = self._receive()

    def journal(self) -> JournalStatus:
        """How its journal is, and what waits there."""
        reply = self._ask(protocol.AskJournal())
        return reply if isinstance(reply, JournalStatus) else self._unexpected(reply)

    def letters(self, which: Which, limit: int) -> Letters:
        """The newest of the dead letters that are meant, and how many those are."""
        reply = self._ask(protocol.FindLetters(which, limit))
        return reply if isinstance(reply, Letters) else self._unexpected(reply)

    def letter(self, number: int) -> WholeLetter:
        """One dead letter with what it holds."""
        reply = self._ask(protocol.ShowLetter(number))
        return reply if isinstance(reply, WholeLetter) else self._unexpected(reply)

    def replay(self, which: Which) -> int:
        """Have dead letters run, or leave, again; how many. RefusedError: none, or not all of them."""
        return self._done(protocol.ReplayLetters(which))

    def drop(self, which: Which) -> int:
        """Have dead letters removed; how many."""
        return self._done(protocol.DropLetters(which))

    def _done(self, request: protocol.Request) -> int:
        reply = self._ask(request)
        return reply.count if isinstance(reply, protocol.LettersDone) else self._unexpected(reply)

    def invoke(self, request: Invoke) -> Iterator[Answer | Chunk | Done]:
        """Call a function: its Answer, then every Chunk as it comes, then Done."""
        reply = self._ask(request)
        while True:
            if not isinstance(reply, (Answer, Chunk, Done)):
                self._unexpected(reply)
            yield reply
            if isinstance(reply, Done):
                return
            reply = self._receive()

    def _ask(self, request: protocol.Request) -> protocol.Reply:
        frame = protocol.encode(request)
        try:
            self._peer.sendall(frame)
        except TimeoutError as error:
            raise AnswerTimeoutError(f"the agent at {self.address} takes no request") from error
        except OSError:
            pass  # it may have refused this connection before it read the request: what it said is still to be read
        return self._receive()

    def _receive(self) -> protocol.Reply:
        try:
            reply = protocol.decode_reply(self._read(protocol.payload_size(self._read(protocol.HEADER.size))))
        except TimeoutError as error:
            raise AnswerTimeoutError(f"no answer within {self._peer.gettimeout():g} s; give a larger --timeout") from error
        except OSError as error:
            raise NoAgentError(f"the agent at {self.address} closed the connection ({_reason(error)}); see its log") from error
        if isinstance(reply, Refused):
            raise RefusedError(reply)
        return reply

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise ConnectionResetError(0, "no more data")
        return data

    def _unexpected(self, reply: protocol.Reply) -> NoReturn:
        raise ControlError(f"the agent at {self.address} answered with {type(reply).__name__}; restart it with this edgehost")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
