"""Port: one serial port of this machine, for all functions that use it. It comes and goes; who uses it is told.

    away    not there, taken, unfit: tried again after up to 2 s, and at once when the device appears; writes fail
    open    bytes go to every user; frames are written whole, in order
    paused  open, and not read, while a user has no room: with flow control the line waits, and so do the other users
    closed  its last user has left

How bytes are read: at once when the line was quiet; when they keep coming, every PACE_S, so that a fast line costs few turns of
the loop. A user that tells frames by pauses (`prompt`) gets every byte at once. Must not know framing, functions or events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

from edgehost.errors import TriggerError
from edgehost.reconnect import Reconnect
from edgehost.tty.device import Device, TakenError, UnfitError, holder
from edgehost.tty.identity import Identity
from edgehost.tty.line import LineSettings, agreed
from edgehost.tty.outbox import Outbox

PACE_S = 0.01
"""As long as bytes may wait on a busy line. To wake a worker costs more than to hand it a frame, so ten frames together cost a
fraction of ten alone."""
_FAST_BYTES = 512
"""What a fast line brings within the pace, 921,600 baud for one: its bytes may wait twice as long, 1,840 of them."""
_MUCH_BYTES = 2048
"""After a read of so much the line is faster than even that: the next comes after half of the pace, or at once after half as much
again, for the kernel holds 4,096 bytes."""
_BUSY_S = 0.0025
_BUSY_READS = 3
"""So many reads, each within _BUSY_S of the one before, are a busy line."""
_LINGER_S = 2.0
_SENT_S = 0.01
_CHECK_S = 1.0
"""How often to look whether a port that is not read is still there."""
_RETRY_S = 2.0

T = TypeVar("T")
State = Literal["starting", "running", "degraded", "failed"]

log = logging.getLogger("edgehost.tty")


class User(Protocol):
    """Who uses a port. All is called from the loop, and must be quick."""

    function: str
    line: LineSettings
    prompt: bool
    """Whether it must have bytes as soon as they are there, for it tells frames by pauses."""

    def received(self, data: bytes) -> None: ...

    def port_is(self, state: State, message: str) -> None:
        """The port has come (`running`), is away (`degraded`), or will not come until a person acts (`failed`)."""


class _ChangeError(TriggerError):
    """Why a port that works is opened anew."""


class Port:
    """Made by the first `Ports.use`. `written` tells outsiders which it is."""

    def __init__(self, identity: Identity, closed: Callable[[Port], None]) -> None:
        self.identity = identity
        self.path = identity.spec
        """Where the device is, or was when it was last open."""
        self.state: State = "starting"
        self.message = ""
        self.tried = asyncio.Event()
        """Set once it was opened, or could not be."""
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._users: list[User] = []
        self._line = agreed(identity.spec, [])
        self._outbox = Outbox()
        self._device: Device | None = None
        self._lost: asyncio.Future[None] | None = None
        self._reconnect = Reconnect(self._connect, self._away, most_s=_RETRY_S)
        self._running: asyncio.Task[None] | None = None
        self._pacing: asyncio.TimerHandle | None = None
        self._last_read = 0.0
        self._busy_reads = 0
        self._crowded: set[User] = set()
        """Users that have no room."""
        self._checking: asyncio.TimerHandle | None = None
        self._holder: str | None = None
        """Who had the port when it was first found taken."""

    @property
    def line(self) -> LineSettings:
        """What all its users together have set it to."""
        return self._line

    def join(self, user: User) -> None:
        """One more user. Raises TriggerError if its line settings contradict those of the others."""
        line = agreed(self.identity.spec, _wishes([*self._users, user]))
        self._users.append(user)
        if self._running is None:
            self._line = line
            self._running = self._loop.create_task(self._reconnect.run(), name=f"tty {self.identity.spec}")
        elif line != self._line:
            self._change(line)
        elif self.tried.is_set():
            user.port_is(self.state, self.message)

    async def leave(self, user: User) -> None:
        """A user goes; with the last one the port is closed, after what waits to be written, for 2 s at the most."""
        if user not in self._users:
            return
        self._users.remove(user)
        self.resume(user)
        if self._users:
            line = agreed(self.identity.spec, _wishes(self._users), self._line)
            if line != self._line:  # a new version that wanted another one has failed
                self._change(line)
        if self._users or self._running is None:
            return
        await self._sent()
        if not self._users:  # nobody came while we waited
            await self.close()

    async def close(self) -> None:
        """End, whoever uses it."""
        running, self._running = self._running, None
        self._closed(self)
        if running is not None:
            running.cancel()
            await asyncio.wait([running])

    def _change(self, line: LineSettings) -> None:
        """Open it anew, set otherwise."""
        self._line = line
        self._lose(_ChangeError("its settings change"))
        self._reconnect.nudge()

    def nudge(self) -> None:
        """Something has changed where the port should be."""
        if self._device is None:
            self._reconnect.nudge()

    def write(self, data: bytes) -> asyncio.Future[None] | None:
        """Write a frame after those before it. None: the kernel has it; else done when it has. Raises TriggerError, now or from
        the future, if it cannot be written: the port is away, or goes away, or takes nothing for too long."""
        device = self._device
        if device is None:
            raise TriggerError(f"{self.identity.written} is away: {self.message or 'not open yet'}")
        before = bool(self._outbox)
        written = self._outbox.add(data)
        if not before and self._try(lambda: self._outbox.flush(device.write)) is False:
            self._loop.add_writer(device.descriptor, self._flush)
        return None if written.done() else written

    async def written(self) -> None:
        """Return when all that waited to be written is written, or has failed."""
        await self._outbox.empty()

    @property
    def paused(self) -> bool:
        """Whether it is not read now, for one of its users has no room."""
        return bool(self._crowded)

    def pause(self, user: User) -> None:
        """Read nothing until this user has called `resume`."""
        if not self._crowded and self._device is not None:
            self._hear_nothing(self._device)
        self._crowded.add(user)

    def resume(self, user: User) -> None:
        """This user has room again."""
        if user in self._crowded:
            self._crowded.remove(user)
            if not self._crowded and self._device is not None:
                self._hear(self._device)

    def _hear(self, device: Device) -> None:
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None
        self._busy_reads = 0
        self._loop.add_reader(device.descriptor, self._readable)

    def _hear_nothing(self, device: Device) -> None:
        self._loop.remove_reader(device.descriptor)
        if self._pacing is not None:
            self._pacing.cancel()
            self._pacing = None
        self._checking = self._loop.call_later(_CHECK_S, self._check)

    def _check(self) -> None:
        """Nobody reads it: it would be gone without a word."""
        device = self._device
        assert device is not None
        self._checking = self._loop.call_later(_CHECK_S, self._check)
        self._try(device.check)

    def read(self) -> None:
        """Take what has come by now, unless it is paused."""
        device = self._device if not self._crowded else None
        data = device and self._try(device.read)
        if data:
            self._hand_over(data)

    async def _connect(self, settled: Callable[[], None]) -> None:
        device = self._opened()
        self._device, self.path, self._holder = device, device.path, None
        self._lost = self._loop.create_future()
        if self._crowded:
            self._hear_nothing(device)
        else:
            self._hear(device)
        settled()
        self._tell("running", "")
        try:
            await self._lost
        except _ChangeError:
            await self._sent()
            raise
        finally:
            self._let_go(device)

    async def _sent(self) -> None:
        """Return when the line has taken all that was written before, or takes none. A UART's buffer empties at its own pace."""
        until = self._loop.time() + _LINGER_S
        try:
            await asyncio.wait_for(self._outbox.empty(), _LINGER_S)
        except asyncio.TimeoutError:
            pass  # said below
        while self._unsent and self._loop.time() < until:  # noqa: ASYNC110 - the kernel tells nobody when the last byte has left
            await asyncio.sleep(_SENT_S)
        if self._unsent or self._outbox:
            log.warning("%s: closed with bytes unwritten: the other side takes none", self.path)

    @property
    def _unsent(self) -> int:
        return self._device.unsent if self._device is not None else 0

    def _opened(self) -> Device:
        try:
            return Device(self.identity.path(), self._line)
        except TriggerError as error:
            self.state = "failed" if isinstance(error, UnfitError) else "degraded"
            if not isinstance(error, TakenError):
                self._holder = None
                raise
            self._holder = holder(self.path) if self._holder is None else self._holder
            raise TriggerError(f"{error} ({self._holder} has it)" if self._holder else str(error)) from None

    def _let_go(self, device: Device) -> None:
        self._loop.remove_reader(device.descriptor)
        self._loop.remove_writer(device.descriptor)
        for timer in (self._pacing, self._checking):
            if timer is not None:
                timer.cancel()
        self._pacing = self._checking = None
        self._device = None
        device.close()
        self._outbox.fail(f"{self.identity.written} went away before it was written")
        self.state = "degraded"

    def _away(self, reason: str) -> None:
        self._tell("failed" if self.state == "failed" else "degraded", reason)

    def _tell(self, state: State, message: str) -> None:
        self.state, self.message = state, message
        self.tried.set()
        for user in list(self._users):
            user.port_is(state, message)

    def _lose(self, why: TriggerError) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_exception(why)

    def _readable(self) -> None:
        """The loop's callback. Decides whether the next read waits for it, or comes at the pace."""
        device = self._device
        if device is None:
            return
        data = self._try(device.read)
        if not data:
            return
        now = self._loop.time()
        self._busy_reads = self._busy_reads + 1 if now - self._last_read < _BUSY_S else 0
        self._last_read = now
        if self._busy_reads >= _BUSY_READS and not any(user.prompt for user in self._users):
            self._loop.remove_reader(device.descriptor)
            self._pacing = self._loop.call_later(PACE_S, self._paced)
        self._hand_over(data)

    def _paced(self) -> None:
        """Read once more; a line that has fallen silent goes back to the loop."""
        device = self._device
        assert device is not None
        data = self._try(device.read)
        if data is None:
            return
        if data and not any(user.prompt for user in self._users):
            self._pacing = self._loop.call_later(_pace_s(len(data)), self._paced)
        else:
            self._pacing = None
            self._busy_reads = 0
            self._loop.add_reader(device.descriptor, self._readable)
        if data:
            self._hand_over(data)

    def _hand_over(self, data: bytes) -> None:
        for user in list(self._users):
            user.received(data)

    def _flush(self) -> None:
        device = self._device
        if device is not None and self._try(lambda: self._outbox.flush(device.write)):
            self._loop.remove_writer(device.descriptor)

    def _try(self, act: Callable[[], T]) -> T | None:
        """What a call to the device gives; None if that showed that it is gone."""
        try:
            return act()
        except OSError as error:
            self._lose(TriggerError(f"{self.path} is gone ({error.strerror})"))
            return None


def _wishes(users: Sequence[User]) -> list[tuple[str, LineSettings]]:
    return [(user.function, user.line) for user in users]


def _pace_s(size_bytes: int) -> float:
    if size_bytes < _MUCH_BYTES:
        return PACE_S if size_bytes < _FAST_BYTES else 2 * PACE_S
    return PACE_S / 2 if size_bytes < _MUCH_BYTES * 3 // 2 else 0.0
