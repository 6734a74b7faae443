"""The agent's side of the zygotes: starts one for each set of preloaded modules, asks it for workers, hears when they end.

Knows processes and descriptors; must not know queues or events.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from edgehost import plugin
from edgehost.children import end_in_words, inherited_environment
from edgehost.engine import kernel
from edgehost.engine.births import MESSAGE_MAX, Ended, Fork, Forked, decode_report, encode
from edgehost.engine.cell import Cells
from edgehost.engine.spec import WorkerSpec
from edgehost.errors import StartError
from edgehost.manifest.model import Manifest

log = logging.getLogger("edgehost.engine")

_HINTS: dict[int, str] = {
    signal.SIGKILL: " (by the agent, the system's memory killer or a person)",
    signal.SIGXCPU: " (limits.cpu_s is spent)",
}
_BUSY_S = 0.002
_SWEEP_S = 1.0
_BOOT = """
import json, sys
order = json.loads(sys.argv[1])
sys.path[:] = order["path"]
from edgehost.engine.zygote import main
main(order["control"], order["runtimes"], order["preload"])
"""


@dataclass(frozen=True)
class Breed:
    """What makes one zygote serve a worker: the runtime's kind and class (`module:Class`), and the modules imported before
    the fork.
    """

    runtime: str
    target: str
    preload: tuple[str, ...]


def breed_of(manifest: Manifest) -> Breed:
    """The zygote that serves this manifest's workers. Imports the runtime's class (not what the runtime runs on)."""
    runtime = plugin.load("runtime", manifest.runtime)
    preload = tuple(dict.fromkeys([*runtime.preload, *manifest.preload]))
    return Breed(manifest.runtime, f"{runtime.__module__}:{runtime.__qualname__}", preload)


class Process:
    """One worker process, from the agent's side."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._ended: Callable[[str], None] | None = None
        self._reason: str | None = None
        self.verdict: Callable[[], str] = str
        """Which of its limits ended it, in words; '' if none did."""

    def when_ended(self, ended: Callable[[str], None]) -> None:
        """Have `ended(reason)` called once, when the process is gone with all it left behind. At once if it already is: its
        birth and its end may be read in one turn of the loop, before anybody could ask.
        """
        self._ended = ended
        if self._reason is not None:
            ended(self._told(self._reason))

    def kill(self) -> None:
        """SIGKILL. Safe at any time: the pidfd never names another process."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def end_when_dead(self, loop: asyncio.AbstractEventLoop, reason: str) -> None:
        """Kill it, and `end` it once it really runs no more (a pidfd is readable then): until that it may begin more events."""
        if self._pidfd >= 0:
            self.kill()
            loop.add_reader(self._pidfd, self._dead, loop, reason)

    def _dead(self, loop: asyncio.AbstractEventLoop, reason: str) -> None:
        loop.remove_reader(self._pidfd)
        self.end(reason)

    def end(self, reason: str) -> None:
        """Called by the nursery alone, when the process runs no more."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
            self._reason = reason
            if self._ended is not None:
                self._ended(self._told(reason))

    def _told(self, reason: str) -> str:
        verdict = self.verdict()
        return f"killed: {verdict}" if verdict else reason


class Zygote:
    """One zygote process and its control socket in the agent's loop."""

    def __init__(self, breed: Breed, loop: asyncio.AbstractEventLoop, lost: Callable[[], None]) -> None:
        self._loop = loop
        self._lost = lost
        self._tickets = 0
        self._asked: dict[int, asyncio.Future[Process]] = {}
        self._processes: dict[int, Process] = {}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        with theirs:
            self._child = subprocess.Popen(
                _command(breed, theirs.fileno()),
                pass_fds=[theirs.fileno()],
                env=inherited_environment(),
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        ours.setblocking(False)
        loop.add_reader(ours.fileno(), self._readable)

    @property
    def pid(self) -> int:
        return self._child.pid

    async def fork(self, spec: WorkerSpec, descriptors: list[int]) -> Process:
        """A new worker that owns copies of `descriptors`. Raises StartError if the zygote cannot fork or dies first."""
        self._tickets += 1
        ticket = self._tickets
        message = encode(Fork(ticket, spec))
        if len(message) > MESSAGE_MAX:
            raise StartError(f"{spec.function}: env and settings take {len(message)} bytes; {MESSAGE_MAX} is the most")
        answer: asyncio.Future[Process] = self._loop.create_future()
        self._asked[ticket] = answer
        try:
            await self._ask(message, descriptors)
        except OSError as error:
            if self._asked.pop(ticket, None) is not None:  # else it has gone meanwhile, and `answer` says so
                trouble = f"{spec.function}: the zygote does not answer ({error.strerror}); it is started again"
                raise StartError(trouble) from error
        except asyncio.CancelledError:
            self._asked.pop(ticket, None)
            raise
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().kill()  # forked in the same moment: nobody will ever know it
            raise

    async def _ask(self, message: bytes, descriptors: list[int]) -> None:
        while True:
            try:
                socket.send_fds(self._control, [message], descriptors)
            except BlockingIOError:
                await asyncio.sleep(_BUSY_S)  # hundreds of workers start at once and the zygote has not read them all yet
            else:
                return

    def _readable(self) -> None:
        while True:
            try:
                data, descriptors, _flags, _address = socket.recv_fds(self._control, MESSAGE_MAX, 1)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._gone()
                return
            message = decode_report(data)
            if isinstance(message, Ended):
                self._processes.pop(message.pid).end(_reason(message))
            else:
                self._forked(message, descriptors)

    def _forked(self, message: Forked, descriptors: list[int]) -> None:
        answer = self._asked.pop(message.ticket)
        process = Process(message.pid, descriptors[0] if descriptors else -1)
        trouble = message.reason
        if message.pid:
            self._processes[message.pid] = process
            trouble = "" if descriptors else _unwatched(message.pid)
        if answer.cancelled():
            process.kill()
        elif trouble:
            answer.set_exception(StartError(trouble))
        else:
            answer.set_result(process)

    def _gone(self) -> None:
        """The zygote died. Its workers die with it (PR_SET_PDEATHSIG); what they leave falls to the agent, which is a
        subreaper.
        """
        self.close()
        self._child.kill()
        self._child.wait()
        self._lost()
        for process in self._processes.values():
            process.end_when_dead(self._loop, "its zygote died")
        self._processes.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(StartError("the zygote died while it forked a worker; it is started again"))
        self._asked.clear()

    def close(self) -> None:
        """Close the control socket: the zygote ends all its workers and itself."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()

    def wait(self) -> None:
        """Wait for the zygote's end after `close`."""
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        for process in self._processes.values():
            process.end("the agent stopped")
        self._processes.clear()


class Nursery:
    """All zygotes of an agent, by breed. A zygote that died is started again when the next worker needs it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cells: Cells | None = None) -> None:
        self.cells = cells or Cells()
        self._loop = loop
        self._zygotes: dict[Breed, Zygote] = {}
        self._sweeping: asyncio.TimerHandle | None = None
        self.kept: set[int] = set()
        """Process ids of children of the agent that are not workers' (an embedded broker, a trigger's command): never swept."""
        kernel.become_subreaper()
        kernel.keep_freed_memory()

    def zygote(self, breed: Breed) -> Zygote:
        """The zygote of this breed, started now if there is none."""
        if breed not in self._zygotes:
            self._zygotes[breed] = Zygote(breed, self._loop, lambda: self._lost(breed))
        return self._zygotes[breed]

    def _lost(self, breed: Breed) -> None:
        zygote = self._zygotes.pop(breed, None)
        if zygote is not None:
            log.error("the zygote for %s workers died and is started again", breed.runtime)
            if self._sweeping is None:
                self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """End what workers of a dead zygote left behind: the agent inherited it."""
        self._sweeping = None
        known = {zygote.pid for zygote in self._zygotes.values()} | self.kept
        if left := kernel.end_orphans(known):
            log.warning("ended %d processes that workers of a dead zygote left behind", left)

    def close(self) -> None:
        """End every zygote and worker, and wait for them."""
        zygotes = list(self._zygotes.values())
        self._zygotes.clear()
        for zygote in zygotes:
            zygote.close()
        for zygote in zygotes:
            zygote.wait()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweep()
        self.cells.close()


def _command(breed: Breed, control: int) -> list[str]:
    """A fresh interpreter, isolated from the user's environment, that sees the same packages as the agent."""
    order = {"path": sys.path, "control": control, "runtimes": {breed.runtime: breed.target}, "preload": list(breed.preload)}
    flags = ["-I", "-B"] if sys.dont_write_bytecode else ["-I"]
    return [sys.executable, *flags, "-c", _BOOT, json.dumps(order)]


def _unwatched(pid: int) -> str:
    """End a worker whose pidfd found no room in the agent, which could neither kill it later nor see it end; why, in words."""
    try:
        os.kill(pid, signal.SIGKILL)  # the number is still its own: its zygote has forked it just now, and alone can reap it
    except ProcessLookupError:
        pass
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"the agent has no descriptor left for another worker ({most} is its limit); raise LimitNOFILE=, or run fewer workers"


def _reason(message: Ended) -> str:
    """How a worker ended, in words."""
    how = end_in_words(message.status)
    if os.WIFSIGNALED(message.status):
        how += _HINTS.get(os.WTERMSIG(message.status), "")
    return f"{how}; {message.left} processes it left were ended" if message.left else how
