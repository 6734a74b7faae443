"""Lines of a command that runs on and on as events: ExecTrigger for each `[triggers.NAME]` of kind `exec`.

    it runs                    running
    it ended                   degraded; started again after a growing delay, by `restart`
    it ended for good          stopped, or failed if it failed
    it is not there            failed; looked for again
    it cannot be started       failed, with what the system lacks; tried again
    the function is busy       its output is not read: the command waits in its own write, and nothing is lost
Must not know what a line means. (program.py knows how a process begins and ends.)
"""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from edgehost.children import end_in_words
from edgehost.engine.output import OutputPipe, Throttle
from edgehost.errors import TriggerError
from edgehost.event import Event
from edgehost.feed import Feed
from edgehost.framing import Framing, Line, make_codec
from edgehost.intake import Intake, IntakeSettings
from edgehost.manifest.model import Positive, Seconds
from edgehost.numbering import Numbering
from edgehost.plugin import TriggerHost
from edgehost.reconnect import Reconnect
from edgehost.triggers.exec.program import Program

_CHUNK_BYTES = 64 * 1024
_STEADY_S = 10.0
"""A command that has run so long is started again at once when it ends."""
_MOST_S = 60.0
_ADVICE = {
    errno.EMFILE: "; raise LimitNOFILE of the agent's service",
    errno.ENFILE: "; raise fs.file-max",
    errno.EAGAIN: "; raise TasksMax of the agent's service, or its user's limit of processes",
}


class ExecSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """`[triggers.NAME]` with `kind = "exec"`."""

    command: Annotated[tuple[str, ...], Meta(min_length=1)] | str
    """The program and its arguments. There is no shell: `["sh", "-c", "a | b"]` asks for one."""
    cwd: str = ""
    """The folder it runs in, from the function's own; empty: that one."""
    env: dict[str, str] = {}
    """Added to its environment, which is otherwise what workers have."""
    framing: Framing = Line()
    content_type: str = "text/plain"
    restart: Literal["always", "on-failure", "never"] = "always"
    grace_s: Seconds = 5.0
    """How long it may take to end after SIGTERM; then it is killed."""
    max_in_flight: Positive = 64
    """Events the function gets before it has answered the first; 1 keeps them strictly in order."""

    def __post_init__(self) -> None:
        if isinstance(self.command, str):
            words = ", ".join(f'"{word}"' for word in _words(self.command))
            raise ValueError(f"command: {self.command!r} is one text; write a list, the program first: [{words}]")
        if not self.command[0]:
            raise ValueError("command: the first word is empty; it is the program")
        if any("\0" in word for word in (*self.command, self.cwd, *self.env, *self.env.values())):
            raise ValueError("command: no word may hold a NUL")
        if any("=" in name or not name for name in self.env):
            raise ValueError("env: a name is not empty and has no = in it")


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


class ExecTrigger:
    """See edgehost/plugin.py, Trigger."""

    Settings: ClassVar[type[Struct]] = ExecSettings
    replies: ClassVar[bool] = False

    def __init__(self, settings: ExecSettings, host: TriggerHost) -> None:
        self._settings = settings
        self._host = host
        self._intake = Intake(IntakeSettings(max_in_flight=settings.max_in_flight), host, self._room)
        self._output: _Output | None = None
        self._ids = Numbering(host.origin.name)
        self._runs = 0
        self._trouble: Literal["degraded", "failed"] = "degraded"
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the command. One that cannot be started is a state, not an error."""
        reconnect = Reconnect(self._run, self._away, first_s=0.5, most_s=_MOST_S)
        self._running = asyncio.create_task(reconnect.run(), name=f"exec {self._host.origin.name}")

    async def stop(self) -> None:
        """End the command; return when all it wrote has been answered."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        await self._intake.drain()

    async def _run(self, settled: Callable[[], None]) -> None:
        """One run of it, to the end. Raises TriggerError; returns never for one that is not started again."""
        self._trouble = "failed"
        status, words = await self._watch(settled)
        how = f"{self._settings.command[0]} ended: {end_in_words(status)}"
        if words:
            how += f', and its last words were "{words}"'
        if self._settings.restart == "never" or (self._settings.restart == "on-failure" and status == 0):
            self._host.report("stopped" if status == 0 else "failed", f'{how}; restart = "{self._settings.restart}"')
            await asyncio.Event().wait()
        self._trouble = "degraded"
        raise TriggerError(f"{how}; it is started again")

    def _begin(self, words: _Words) -> tuple[Program, OutputPipe, _Output]:
        """Start it, with pipes for what it writes. Raises TriggerError, and nothing of them is left then."""
        settings, host = self._settings, self._host
        folder = host.folder / settings.cwd
        with ExitStack() as undo:
            try:
                errors = OutputPipe(asyncio.get_running_loop(), words.line)
                undo.callback(errors.close)
                output = _Output(settings, host, self._intake, self._offer)
                undo.callback(output.close)
                program = Program(settings.command, folder, settings.env, output.write_end, errors.write_end)
            except OSError as error:
                why = f"{error.strerror}{_ADVICE.get(error.errno or 0, '')}"
                raise TriggerError(f"{settings.command[0]} cannot be started in {folder}: {why}") from error
            undo.pop_all()
        return program, errors, output

    async def _watch(self, settled: Callable[[], None]) -> tuple[int, str]:
        settings, host, loop = self._settings, self._host, asyncio.get_running_loop()
        words = _Words(host)
        program, errors, output = self._begin(words)
        self._output = output
        host.children.add(program.pid)
        errors.handed_over()
        output.handed_over()
        self._runs += 1
        host.counts["restarts"] = self._runs - 1
        host.report("running", f"{settings.command[0]} runs as process {program.pid}")
        steady = loop.call_later(_STEADY_S, settled)
        try:
            await program.ended()
        finally:
            steady.cancel()
            await program.stop(settings.grace_s)
            status = await program.bury()
            host.children.discard(program.pid)
            errors.close()
            await output.finish()
        return status, words.last

    def _room(self) -> None:
        if self._output is not None:
            self._output.feed.room()

    def _offer(self, frame: bytes) -> None:
        now = datetime.now(timezone.utc)
        self._intake.offer(Event(frame, self._settings.content_type, self._ids.next(), now, self._host.origin))

    def _away(self, reason: str) -> None:
        self._host.report(self._trouble, reason)


class _Output:
    """The read end of a command's output, read as the function takes it."""

    def __init__(self, settings: ExecSettings, host: TriggerHost, intake: Intake, offer: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._descriptor, False)
        self._over = False
        self.feed = Feed(make_codec(settings.framing), host.counts, lambda: intake.full, offer, self._read)
        self._read(True)

    def handed_over(self) -> None:
        """The command has its copy of the write end: close ours."""
        os.close(self.write_end)
        self.write_end = -1

    def _read(self, on: bool) -> None:
        if not on or self._over:
            self._loop.remove_reader(self._descriptor)
        else:
            self._loop.add_reader(self._descriptor, self._readable)

    def _readable(self) -> None:
        data = self._data()
        if data:
            self.feed.data(data)
        elif data is not None:  # it has closed its output; it may run on
            self._over = True
            self._read(False)

    def _data(self) -> bytes | None:
        try:
            return os.read(self._descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return None

    async def finish(self) -> None:
        """The command is dead: what is still in the pipe is taken as the function has room, then the pipe is closed."""
        self._over = True
        self._read(False)
        await self.feed.until_empty()
        while data := self._data():
            self.feed.data(data)
            await self.feed.until_empty()
        await self.feed.finish()
        self.close()

    def close(self) -> None:
        self._read(False)
        self.feed.close()
        os.close(self._descriptor)
        if self.write_end >= 0:
            self.handed_over()


class _Words:
    """What a command says on its standard error: lines of the log, so many and no more."""

    def __init__(self, host: TriggerHost) -> None:
        self.last = ""
        self._host = host
        self._throttle = Throttle()

    def line(self, text: str) -> None:
        if not text.strip():
            return
        self.last = text.strip()[:200]
        if self._throttle.allow():
            if dropped := self._throttle.take_dropped():
                self._host.log.warning("%d lines of its standard error were not logged: they came too fast", dropped)
            self._host.log.info("%s", text)
        else:
            self._host.counts["stderr_dropped"] += 1
