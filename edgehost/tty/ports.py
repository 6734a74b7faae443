"""Ports: the serial ports that this agent uses, each opened once however many functions use it, and a look at what is plugged in.

Agent-wide: `host.shared(Ports.KEY, Ports)`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from edgehost.config import Config
from edgehost.inotify import CREATE, IGNORED, MOVED_TO, Inotify
from edgehost.tty.identity import Identity, identify
from edgehost.tty.port import Port, User

_ATTRIB = 0x4
"""udev gives a new device to its group a moment after it has made it."""


class Ports:
    """All ports in use."""

    KEY = "tty"

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ports: dict[str, Port] = {}
        self._plug = self._plugged()
        self._folders: dict[str, int] = {}

    def use(self, user: User, config: Config) -> Port:
        """The port that `user.line.port` means, joined. Raises TriggerError if it means none, or if the settings of its users
        contradict each other; that it is not plugged in is a state."""
        identity = identify(user.line.port, config)
        port = self._ports.get(identity.spec) or self._same(identity) or Port(identity, self._forget)
        port.join(user)
        self._ports[port.identity.spec] = port
        self._watch(port.identity.folder)
        return port

    async def close(self) -> None:
        """End every port that is still in use."""
        await asyncio.gather(*(port.close() for port in list(self._ports.values())))
        if self._plug is not None:
            self._loop.remove_reader(self._plug.fileno())
            self._plug.close()
            self._plug = None

    def _same(self, identity: Identity) -> Port | None:
        """A port in use under another name: /dev/serial/by-id/... and /dev/ttyUSB0 are one line."""
        if identity.spec.startswith("usb:") or not Path(identity.spec).exists():
            return None
        real = Path(identity.spec).resolve()
        return next((port for port in self._ports.values() if Path(port.path).resolve() == real), None)

    def _forget(self, port: Port) -> None:
        self._ports.pop(port.identity.spec, None)

    def _plugged(self) -> Inotify | None:
        try:
            plug = Inotify()
        except OSError:
            return None  # the system has no descriptor left for it; ports are found again by trying
        self._loop.add_reader(plug.fileno(), self._look)
        return plug

    def _watch(self, folder: str) -> None:
        """Hear what appears in a folder; in the one above it while it is not there, as /dev/serial/by-id without a port."""
        if self._plug is None:
            return
        try:
            self._folders[folder] = self._plug.watch(folder, CREATE | MOVED_TO | _ATTRIB)
        except FileNotFoundError:
            self._watch(str(Path(folder).parent))
        except OSError:
            pass  # not ours to watch, or no watches left: the port is found again by trying

    def _look(self) -> None:
        assert self._plug is not None
        notices = self._plug.read()
        gone = {notice.watch for notice in notices if notice.what & IGNORED}
        self._folders = {folder: watch for folder, watch in self._folders.items() if watch not in gone}
        for port in list(self._ports.values()):
            watch = self._folders.get(port.identity.folder)
            if watch is None:
                self._watch(port.identity.folder)
            if any(notice.watch != watch or port.identity.may_be(notice.name) for notice in notices):
                port.nudge()
