"""The agent: composition root. Builds the parts from the configuration, hands each the few others it needs, and ends them in
order.

Owns none of their behaviour. `main` is what systemd and `edgehost run` start; it imports neither typer nor rich.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from edgehost import __version__
from edgehost.config import DEFAULT_BROKER, Broker, Config
from edgehost.control.address import default_address
from edgehost.control.local import LocalServer
from edgehost.control.protocol import FunctionStatus
from edgehost.deployment import Deployment
from edgehost.embedded_broker import EmbeddedBroker
from edgehost.engine import cgroup
from edgehost.engine.cell import Cells
from edgehost.engine.nursery import Nursery, breed_of
from edgehost.errors import ControlError, EdgehostError, ManifestError
from edgehost.event import Event, Response, failure
from edgehost.log import set_up
from edgehost.manifest import read_manifest
from edgehost.manifest.model import Manifest
from edgehost.mqtt import Session
from edgehost.secrets import private_files
from edgehost.watch import changes

T = TypeVar("T")

log = logging.getLogger("edgehost.agent")

_DESCRIPTORS = 65536


@dataclass(frozen=True)
class Options:
    """What the command line adds to the configuration file."""

    watch: bool = False
    embedded_broker: bool = False
    standalone: bool = False
    """One function was named and nothing else runs: it answers at `/` too."""


class Agent:
    """Everything between the first import and the last descriptor. `run` returns when `stop` was called and all is ended."""

    def __init__(self, config: Config, options: Options, cgroups: cgroup.Tree | None = None) -> None:
        self.config = config
        self.standalone = options.standalone
        self._options = options
        self._loop = asyncio.get_running_loop()
        self.nursery = Nursery(self._loop, Cells(cgroups, private_files(config)))
        self._deployments: dict[str, Deployment] = {}
        self._sessions: dict[str, Session] = {}
        self._shared: dict[str, Any] = {}
        self._embedded: EmbeddedBroker | None = None
        self._starting: list[asyncio.Task[None]] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._control = LocalServer(default_address(config.socket), self)

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
        if self._options.embedded_broker:
            self._embedded = EmbeddedBroker()
            self.nursery.kept.add(self._embedded.start())
            log.info("embedded broker listens on 127.0.0.1:%d (MQTT 5)", self._embedded.port)
        for warning in self.config.warnings:
            log.warning("%s", warning)
        await self._control.start()
        manifests = [self._read(folder) for folder in self.config.functions]
        for manifest in manifests:
            if manifest is not None:
                self.nursery.zygote(breed_of(manifest))  # all zygotes import at once, while the rest is built
        await asyncio.gather(
            *(self._deployments[manifest.name].start(manifest) for manifest in manifests if manifest is not None)
        )
        if self._options.watch:
            self._watchers = [asyncio.create_task(self._watch(deployment)) for deployment in self._deployments.values()]
        running = [name for name, deployment in self._deployments.items() if deployment.status().state == "ready"]
        log.info(
            "edgehost %s is ready: %d of %d functions run (%s)",
            __version__,
            len(running),
            len(self._deployments),
            ", ".join(running) or "none",
        )

    def _read(self, folder: Path) -> Manifest | None:
        """The manifest of one folder; a deployment under its name stands for it, also when it cannot be read."""
        try:
            manifest = read_manifest(folder)
            if manifest.name in self._deployments:
                other = self._deployments[manifest.name].folder
                raise ManifestError(
                    f"{manifest.source}: name {manifest.name!r} is taken by {other}; give one of them another name"
                )
        except EdgehostError as error:
            name = folder.resolve().name
            while name in self._deployments:
                name += "~"
            self._deployments[name] = Deployment(name, folder, self)
            self._deployments[name].trouble(str(error))
            return None
        self._deployments[manifest.name] = Deployment(manifest.name, folder, self)
        return manifest

    async def _watch(self, deployment: Deployment) -> None:
        async for _ in changes(deployment.folder):
            try:
                await deployment.replace(read_manifest(deployment.folder, name=deployment.name))
            except EdgehostError as error:
                log.error("%s: not reloaded, the version before goes on: %s", deployment.name, error)

    async def _end(self) -> None:
        """Sources first, then functions, then what they shared; nothing is left, whatever fails on the way."""
        log.info("edgehost is stopping")
        for watcher in self._watchers:
            watcher.cancel()
        for session in self._sessions.values():
            session.keep_subscriptions()  # the broker keeps what comes while we are away
        ends: list[Callable[[], Any]] = [
            self._control.stop,
            *(deployment.stop for deployment in self._deployments.values()),
        ]
        await _all(ends)
        await _all([part.close for part in self._shared.values()])
        await _all([session.close for session in self._sessions.values()])
        self.nursery.close()
        if self._embedded is not None:
            self._embedded.stop()

    def broker(self, name: str) -> Session:
        """The session of a broker by its name in edgehost.toml, or by URL. Made and started at first use; every later user
        shares it.
        """
        if name not in self._sessions:
            self._sessions[name] = Session(name, self._broker_settings(name), logging.getLogger("edgehost.mqtt"))
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

    def call(self, name: str, event: Event) -> asyncio.Future[Response]:
        """Submit an event to a local function by name."""
        deployment = self._deployments.get(name)
        return self._nobody(name) if deployment is None else deployment.submit(event)

    def deliver(self, name: str, event: Event) -> asyncio.Future[Response]:
        """As `call`, for an event nobody waits for: the function's retries and outputs apply."""
        deployment = self._deployments.get(name)
        return self._nobody(name) if deployment is None else deployment.deliver(event)

    def _nobody(self, name: str) -> asyncio.Future[Response]:
        answer: asyncio.Future[Response] = self._loop.create_future()
        answer.set_result(
            failure("not_ready", f"{name!r} is not a function here; there are: {', '.join(self._deployments) or 'none'}")
        )
        return answer

    async def invoke(self, name: str, event: Event) -> Response:
        """As `call`, for the local socket. Raises ControlError if no function has that name."""
        if name not in self._deployments:
            raise ControlError(f"{name!r} is not a function here; there are: {', '.join(sorted(self._deployments)) or 'none'}")
        return await self._deployments[name].submit(event)

    def functions(self) -> list[FunctionStatus]:
        """How every function is."""
        return [self._deployments[name].status() for name in sorted(self._deployments)]


async def _all(ends: Sequence[Callable[[], Any]]) -> None:
    """Call every one and wait for all; one that fails is logged and does not keep the others from ending."""
    for result in await asyncio.gather(*(end() for end in ends), return_exceptions=True):
        if isinstance(result, BaseException):
            log.error("while stopping: %s", result, exc_info=result)


def parse(argv: Sequence[str]) -> tuple[Config, Options]:
    """The command line as values. Raises ConfigError; argparse exits with 2 for options that do not exist."""
    parser = argparse.ArgumentParser(prog="edgehost agent", description="Run the agent until SIGTERM.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="edgehost.toml")
    parser.add_argument(
        "--function", type=Path, action="append", default=[], metavar="FOLDER", help="a function's folder; may be repeated"
    )
    parser.add_argument("--broker", metavar="embedded|URL", help="the default broker")
    parser.add_argument("--http", metavar="HOST:PORT", help="where HTTP triggers listen")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="the local control socket")
    parser.add_argument("--watch", action="store_true", help="reload functions when their files change")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--log-format", choices=["auto", "text", "json"])
    given = parser.parse_args(argv)
    config = Config()
    if given.config is not None:
        from edgehost.config_toml import read_config

        config = read_config(given.config)
    if given.broker not in (None, "embedded"):
        config = replace(config, brokers={**config.brokers, "default": Broker(url=given.broker)})
    if given.http:
        config = replace(config, http=replace(config.http, listen=given.http))
    config = replace(
        config,
        functions=(*config.functions, *(folder.resolve() for folder in given.function)),
        socket=given.socket or config.socket,
        log=replace(config.log, level=given.log_level or config.log.level, format=given.log_format or config.log.format),
    )
    # A service's one function keeps its own path: a second one may join it tomorrow.
    alone = len(given.function) == 1 and len(config.functions) == 1
    return config, Options(given.watch, given.broker == "embedded", alone)


def _raise_descriptor_limit() -> None:
    """Each worker takes five descriptors of the agent; the usual soft limit of 1024 is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _DESCRIPTORS), hard))


async def _run(config: Config, options: Options) -> None:
    agent = Agent(config, options, cgroup.claim(cgroup.own_folder()))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    await agent.run()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent. Exit status: 0 after an orderly stop, 3 for a configuration a person must mend, 1 for anything else."""
    try:
        config, options = parse(sys.argv[1:] if argv is None else argv)
        set_up(config.log)
        _raise_descriptor_limit()
        asyncio.run(_run(config, options))
    except ControlError as error:
        sys.stderr.write(f"edgehost: {error}\n")
        return 5
    except EdgehostError as error:
        sys.stderr.write(f"edgehost: {error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
