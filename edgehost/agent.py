"""The agent: composition root. Builds the parts from the configuration, hands each the few others it needs, and ends them in
order.

Owns none of their behaviour. `main` is what systemd and `edgehost run` start; it imports neither typer nor rich.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from edgehost import __version__
from edgehost.config import DEFAULT_BROKER, Broker, Config
from edgehost.control.address import default_address
from edgehost.control.local import LocalServer
from edgehost.control.protocol import FunctionStatus, Reloaded
from edgehost.control.stock import JournalStatus
from edgehost.delivery.allowance import Allowance
from edgehost.delivery.dead_letters import DeadLetters
from edgehost.delivery.disk import DiskWatch, room_on
from edgehost.delivery.journal import Journal
from edgehost.delivery.outbox import Outbox
from edgehost.delivery.overview import overview
from edgehost.delivery.saving import Saving
from edgehost.embedded_broker import EmbeddedBroker
from edgehost.engine import cgroup
from edgehost.engine.cell import Cells
from edgehost.engine.nursery import Nursery
from edgehost.errors import ControlError, EdgehostError, ManifestError
from edgehost.letter import Which
from edgehost.log import set_up
from edgehost.mqtt import Session
from edgehost.options import Options, parse
from edgehost.profile.board import chosen
from edgehost.reload import merged
from edgehost.roster import Roster
from edgehost.secrets import private_files
from edgehost.service.lifeline import Lifeline
from edgehost.service.notify import Supervision, take_supervision
from edgehost.state import saved_bytes, state_folder

if TYPE_CHECKING:
    from edgehost.control.simulated import Simulated

T = TypeVar("T")

log = logging.getLogger("edgehost.agent")

_DESCRIPTORS = 65536


class Agent:
    """Everything between the first import and the last descriptor. `run` returns when `stop` was called and all is ended."""

    def __init__(
        self,
        config: Config,
        options: Options,
        cgroups: cgroup.Tree | None = None,
        read_config: Callable[[], Config] | None = None,
        supervision: Supervision | None = None,
    ) -> None:
        """`read_config` gives the configuration anew for a reload, or raises ConfigError; None: it is always the same."""
        self.config = config
        self._read_config = read_config or (lambda: config)
        self._recognised = chosen(config.profile)
        self.board = self._recognised.profile
        self.standalone = options.standalone
        self._options = options
        self._loop = asyncio.get_running_loop()
        state = state_folder(config.state, os.environ, os.getuid())
        self.journal = Journal(state / "journal.db", config.journal.durability == "relaxed")
        room = room_on(state, config.journal.events_bytes, config.journal.outbox_bytes)
        self.outbox = Outbox(self.journal, room.outbox_bytes, config.journal.drain_per_s)
        self.allowance = Allowance(room.events_bytes)
        self.journal.on_open.append(self._take_stock)
        self.journal.on_trouble.append(partial(self.allowance.refuse, "journal"))
        self._disk = DiskWatch(state, config.disk, self.journal, self.outbox, self.allowance)
        self._saving = Saving(self.journal, config.journal.written_per_day_bytes, {"state": partial(saved_bytes, state)})
        self._watching: list[asyncio.Task[None]] = []
        self.nursery = Nursery(self._loop, Cells(cgroups, private_files(config)))
        self._roster = Roster(self)
        self.call, self.deliver, self.invoke = self._roster.call, self._roster.deliver, self._roster.invoke
        self._letters = DeadLetters(self.journal, self.outbox, self.allowance, config.journal.dead_letters)
        self.find_letters, self.whole_letter, self.drop_letters = self._letters.find, self._letters.whole, self._letters.drop
        self._sessions: dict[str, Session] = {}
        self._shared: dict[str, Any] = {}
        self._embedded: EmbeddedBroker | None = None
        self._starting: list[asyncio.Task[None]] = []
        self._reloads: set[asyncio.Task[Reloaded]] = set()
        self._one_reload = asyncio.Lock()
        self._started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._control = LocalServer(default_address(config.socket), self)
        self._lifeline = Lifeline(supervision or Supervision(), self._roster.healths, self.troubles)

    def stop(self) -> None:
        """Begin the orderly end."""
        self._stopping.set()

    async def run(self) -> None:
        """Bring everything up, wait for `stop`, end everything. Raises EdgehostError for what keeps the agent from starting
        at all.
        """
        starting = self._loop.create_task(self._start())
        stopping = self._loop.create_task(self._stopping.wait())
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopping
        finally:
            starting.cancel()  # a stop does not wait for a function that never loads
            stopping.cancel()
            await asyncio.wait((starting, stopping))
            await self._end()

    async def _start(self) -> None:
        self._lifeline.begin()
        if self._options.embedded_broker:
            self._embedded = EmbeddedBroker()
            self.nursery.kept.add(self._embedded.start())
            log.info("embedded broker listens on 127.0.0.1:%d (MQTT 5)", self._embedded.port)
        log.info("board: %s (%s)", self.board.title, self._recognised.why)
        for warning in self.config.warnings:
            log.warning("%s", warning)
        await self._control.start()
        if self.journal.path.exists():
            await self._open_journal()
        self._watching.append(self._loop.create_task(self._disk.run()))
        await self._roster.start(self.config.functions)
        if self._options.watch:
            self._roster.watch()
        self._watching.append(self._loop.create_task(self._saving.run()))  # by now, or a start would rest between its steps
        self._started.set()
        self._lifeline.ready()
        healths = self._roster.healths()
        running = [each.name for each in healths if each.state == "ready"]
        log.info(
            "edgehost %s is ready: %d of %d functions run (%s)",
            __version__,
            len(running),
            len(healths),
            ", ".join(running) or "none",
        )

    async def _open_journal(self) -> None:
        """What an earlier run has left goes on, whatever the functions ask for now."""
        try:
            await self.journal.open()
            await self.outbox.numbers.load()
        except EdgehostError as error:
            log.error("%s", error)

    def _take_stock(self) -> None:
        """The journal is open, or was mended: what waits there counts."""
        self.allowance.count(self.journal.totals.event_bytes.values())

    async def reload(self) -> Reloaded:
        """Read edgehost.toml and every function's folder again, and change what can be changed while it runs.

        Raises ConfigError if edgehost.toml cannot be used: nothing has changed then. A reload that has begun goes on, whatever
        becomes of who asked for it.
        """
        task = self._loop.create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        return await asyncio.shield(task)

    async def _reload(self) -> Reloaded:
        await self._started.wait()
        async with self._one_reload:
            self._lifeline.reloading()
            note = "not reloaded: the agent stops"
            try:
                done = await self._renew()
                note = "; ".join(done.problems)
            except EdgehostError as error:
                note = f"not reloaded: {error}"
                raise
            except Exception as error:
                log.exception("a reload broke off")
                note = f"reloaded in part: {type(error).__name__}: {error}; mend the cause and reload again"
                raise ControlError(note) from error
            finally:
                log.log(logging.ERROR if note else logging.INFO, "%s", note or "reloaded")
                self._lifeline.ready(note)
            return done

    async def _renew(self) -> Reloaded:
        before = self.config.log
        self.config, restart = merged(self.config, self._read_config())
        self.nursery.cells.keep_private(private_files(self.config))
        if self.config.log != before:
            set_up(self.config.log)
        done = await self._roster.change(self.config.functions)
        if self._options.watch:
            self._roster.watch()
        for place in restart:
            log.warning("%s has changed: in force when the agent is started again", place)
        return replace(done, restart=restart)

    def reload_unasked(self) -> None:
        """As `reload`, where nobody waits for the answer."""
        self._loop.create_task(self.reload()).add_done_callback(_told_already)

    async def _end(self) -> None:
        """Sources first, then functions, then what they shared; nothing is left, whatever fails on the way."""
        for reload in self._reloads:
            reload.cancel()
        await asyncio.gather(*self._reloads, return_exceptions=True)
        log.info("edgehost is stopping")
        self._lifeline.stopping()
        self.journal.hurry()
        self.outbox.hurry()  # a disk that is full, or an outbox that is, holds up no end
        for session in self._sessions.values():
            session.keep_subscriptions()  # the broker keeps what comes while we are away
        ends: list[Callable[[], Any]] = [
            self._control.stop,
            *self._roster.stops(),
        ]
        await _all(ends)
        for watching in self._watching:
            watching.cancel()
        self.outbox.close()
        await _all([part.close for part in self._shared.values()])
        await _all([session.close for session in self._sessions.values()])
        await _all([self.journal.close])
        self.nursery.close()
        if self._embedded is not None:
            self._embedded.stop()
        self._lifeline.close()

    def broker(self, name: str) -> Session:
        """The session of a broker by its name in edgehost.toml, or by URL. Made and started at first use; every later user
        shares it.
        """
        if name not in self._sessions:
            owed, logger = self.outbox.numbers.left_open, logging.getLogger("edgehost.mqtt")
            self._sessions[name] = Session(name, self._broker_settings(name), logger, owed=owed, spoken_for=self.outbox.numbers)
            self._starting.append(self._loop.create_task(self._sessions[name].start()))
        return self._sessions[name]

    def _broker_settings(self, name: str) -> Broker:
        if self._embedded is not None and name == "default":
            return Broker(url=self._embedded.url)
        if "://" in name:
            return Broker(url=name)
        if name in self.config.brokers:
            return self.config.brokers[name]
        if name == "default":
            return DEFAULT_BROKER
        known = ", ".join(self.config.brokers) or "default"
        raise ManifestError(f"broker {name!r} is not in edgehost.toml; add [brokers.{name}] or use one of: {known}")

    def shared(self, key: str, make: Callable[[], T]) -> T:
        """The part several triggers use together, made by the first of them."""
        if key not in self._shared:
            self._shared[key] = make()
        part: T = self._shared[key]
        return part

    def simulated(self) -> Simulated:
        """A hand on the simulated GPIO lines. Raises ControlError if no function has one and edgehost.toml asks for none."""
        from edgehost.control.simulated import Simulated
        from edgehost.gpio import pins
        from edgehost.gpio.sim import SimBoard

        if pins.SIM not in self._shared and self.config.gpio.driver != "sim":
            raise ControlError("no GPIO line is simulated by this agent; start it with `edgehost run --gpio sim`")
        board = self.shared(pins.SIM, SimBoard)
        return Simulated(board, pins.places(board, self.config))

    async def replay_letters(self, which: Which) -> int:
        """Put dead letters back where they came from; gives how many."""
        await self._started.wait()
        return await self._letters.replay(which, self._roster)

    async def journal_status(self) -> JournalStatus:
        """How the journal is, and what waits in it."""
        return await overview(self.journal, self.outbox, self.allowance, self._letters)

    def functions(self) -> list[FunctionStatus]:
        """How every function is."""
        return self._roster.statuses()

    def troubles(self) -> list[str]:
        """What is wrong with the agent itself: its journal, its disk."""
        return [trouble for trouble in (self.journal.trouble, self._disk.trouble, self._saving.trouble) if trouble]


def _has_terminal() -> bool:
    """True if this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _told_already(reload: asyncio.Task[Reloaded]) -> None:
    """Log and status have said it: nobody else waits for a reload that a signal asked for."""
    if not reload.cancelled():
        reload.exception()


async def _all(ends: Sequence[Callable[[], Any]]) -> None:
    """Call every one and wait for all; one that fails is logged and does not keep the others from ending."""
    for result in await asyncio.gather(*(end() for end in ends), return_exceptions=True):
        if isinstance(result, BaseException):
            log.error("while stopping: %s", result, exc_info=result)


def _raise_descriptor_limit() -> None:
    """Each worker takes five descriptors of the agent; the usual soft limit of 1024 is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _DESCRIPTORS), hard))


async def _run(config: Config, options: Options, argv: Sequence[str]) -> None:
    supervision = take_supervision(os.environ, os.getpid())
    agent = Agent(config, options, cgroup.claim(cgroup.own_folder()), lambda: parse(argv)[0], supervision)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    # A terminal that goes away says so by SIGHUP; where there is none, SIGHUP asks for a reload (daemon(7)).
    loop.add_signal_handler(signal.SIGHUP, agent.stop if _has_terminal() else agent.reload_unasked)
    await agent.run()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent. Exit status: 0 after an orderly stop, 3 for a configuration a person must mend, 1 for anything else."""
    try:
        argv = sys.argv[1:] if argv is None else argv
        config, options = parse(argv)
        set_up(config.log)
        _raise_descriptor_limit()
        asyncio.run(_run(config, options, argv))
    except ControlError as error:
        sys.stderr.write(f"edgehost: {error}\n")
        return 5
    except EdgehostError as error:
        sys.stderr.write(f"edgehost: {error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
