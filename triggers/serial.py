"""Frames of a serial port as events, and answers as frames: SerialTrigger for each `[triggers.NAME]` of kind `serial`,
SerialOutput for each `[outputs.NAME]`.

    the port                          the trigger
    open, frames come                 running
    away, or taken                    degraded; what had begun of a frame is dropped (`incomplete`)
    unfit (no permission, no tty)     failed, until somebody mends it
    open, bytes come but no frame     degraded, with advice on the baud rate, until a frame comes
    open, overflow = "block"          not read while as many frames wait as may (`blocked` counts how often)

edgehost/tty knows ports and edgehost/framing frames; here the one is led into the other, and both into a function.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import ClassVar, Literal

from msgspec import Struct

from edgehost.errors import TriggerError
from edgehost.event import Event, Response
from edgehost.framing import Codec, Framing, Line, make_codec
from edgehost.intake import NO_ANSWERS, Dropping, Intake, IntakeSettings
from edgehost.manifest.model import Positive
from edgehost.numbering import Numbering
from edgehost.plugin import OutputHost, TriggerHost
from edgehost.tty import LineSettings, Port, Ports, State

_DOUBT_BYTES = 512
_DOUBT_S = 3.0


class SerialSettings(LineSettings, frozen=True, forbid_unknown_fields=True):
    """`[triggers.NAME]` with `kind = "serial"`. Its last three keys are those of IntakeSettings: a Struct has one parent."""

    framing: Framing = Line()
    """What a frame is: a word such as "nmea", or a table { kind = "length", ... }."""
    content_type: str = "application/octet-stream"
    """The events' content type."""
    write_answers: bool = False
    """Whether what the function answers is written back to the port, framed alike, in the order of the frames."""
    max_in_flight: Positive = 64
    max_waiting: Positive = 10_000
    overflow: Literal[Dropping, "block"] = "drop_oldest"

    @property
    def intake(self) -> IntakeSettings:
        return IntakeSettings(self.max_in_flight, self.max_waiting, self.overflow)


class Doubt:
    """Whether what comes is frames at all. Pure: it is told what came, and when."""

    def __init__(self) -> None:
        self.doubting = False
        self._bytes = 0
        self._since = 0.0

    def clear(self) -> bool:
        """A frame came; True if that ends a doubt."""
        was, self.doubting = self.doubting, False
        self._bytes = 0
        return was

    def add(self, size_bytes: int, now_s: float) -> bool:
        """Bytes came that ended no frame; True if they begin a doubt."""
        if not self._bytes:
            self._since = now_s
        self._bytes += size_bytes
        if self.doubting or self._bytes < _DOUBT_BYTES or now_s - self._since < _DOUBT_S:
            return False
        self.doubting = True
        return True


class SerialTrigger:
    """See edgehost/plugin.py, Trigger. A user of its port (edgehost/tty/port.py)."""

    Settings: ClassVar[type[Struct]] = SerialSettings
    replies: ClassVar[bool] = False

    def __init__(self, settings: SerialSettings, host: TriggerHost) -> None:
        self.function = host.function_name
        self.line: LineSettings = settings
        self._settings = settings
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._codec: Codec = make_codec(settings.framing)
        self.prompt = self._codec.gap_s > 0
        self._intake = Intake(settings.intake, host, self._room)
        self._port: Port | None = None
        self._opened = 0
        self._ids = Numbering(host.origin.name)
        self._doubt = Doubt()
        self._quiet: asyncio.TimerHandle | None = None
        self._last_s = 0.0
        self._unwritten = False
        self._stopping = False

    async def start(self) -> None:
        """Join the port, and wait for the first try to open it. TriggerError: no such port here, or used with other settings,
        or answers to durable events are asked for."""
        if self._host.durable and self._settings.write_answers:
            raise TriggerError(NO_ANSWERS.format(kind="serial"))
        self._port = self._host.shared(Ports.KEY, Ports).use(self, self._host.config)
        await self._port.tried.wait()

    async def stop(self) -> None:
        """Hear no more; what was heard is answered, and the answers are written."""
        self._stopping = True
        if self._port is not None:
            self._port.resume(self)  # it is read for the others
        if self._quiet is not None:
            self._quiet.cancel()
        await self._intake.drain()
        if self._port is not None:
            await self._port.leave(self)

    def received(self, data: bytes) -> None:
        """The port's bytes."""
        if self._stopping:
            return
        frames = self._codec.feed(data)
        self._count()
        self._last_s = self._loop.time()
        if frames:
            self._offer(frames)
        elif self._doubt.add(len(data), self._last_s):
            self._host.report("degraded", self._advice())
        if self._intake.stuffed:
            assert self._port is not None
            self._host.counts["blocked"] += 1
            self._port.pause(self)
        if self.prompt and self._quiet is None:
            self._quiet = self._loop.call_later(self._codec.gap_s, self._look_if_quiet)

    def port_is(self, state: State, message: str) -> None:
        """The port came or went."""
        if state == "running":
            self._opened += 1
            if self._opened > 1:
                self._host.counts["reconnects"] += 1
        else:
            self._codec.reset()
            self._count()
        self._doubt.clear()
        self._host.report(state, message)

    def _offer(self, frames: list[bytes]) -> None:
        """Hand over frames that came together."""
        assert self._port is not None
        settings, host, asked = self._settings, self._host, self._settings.write_answers
        now, url, answered = datetime.now(timezone.utc), self._port.path, self._answered if asked else None
        for frame in frames:
            event = Event(frame, settings.content_type, self._ids.next(), now, host.origin, settings.port, url=url)
            self._intake.offer(event, answered, asked)
        host.counts["frames"] = self._ids.count
        if self._doubt.clear():
            host.report("running", "frames come again")

    def _look_if_quiet(self) -> None:
        """The line may have been quiet for the codec's gap. A busy loop is late: what has come by now came before the pause."""
        assert self._port is not None
        if self._port.paused:
            self._last_s = self._loop.time()  # nobody knows how quiet it is
        self._port.read()
        rest_s = self._last_s + self._codec.gap_s - self._loop.time()
        if rest_s > 0:
            self._quiet = self._loop.call_later(rest_s, self._look_if_quiet)
            return
        self._quiet = None
        frames = self._codec.idle()
        self._count()
        if frames:
            self._offer(frames)

    def _room(self) -> None:
        """As many frames have been taken as it needs to read on."""
        if self._port is not None:
            self._port.resume(self)

    def _count(self) -> None:
        if self._codec.counts:
            self._host.counts.update(+self._codec.counts)
            self._codec.counts.clear()

    def _advice(self) -> str:
        assert self._port is not None
        line = self._port.line
        return (
            f"bytes come from {self._port.path}, but no frame has been among them for {_DOUBT_S:g} s; does the device send "
            f"{line.baud} baud, {line.data_bits} data bits, parity {line.parity}, {line.stop_bits} stop bits, and such frames?"
        )

    def _answered(self, response: Response) -> None:
        """Write an answer back; one that is empty, and a failure, is not written."""
        if response.failed or not response.body:
            return
        assert self._port is not None
        try:
            written = self._port.write(self._codec.encode(response.body))
        except (TriggerError, ValueError) as error:
            self._not_written(error)
            return
        if written is None:
            self._is_written()
        else:
            written.add_done_callback(self._write_done)

    def _write_done(self, written: asyncio.Future[None]) -> None:
        error = written.exception()
        if error is None:
            self._is_written()
        else:
            self._not_written(error)

    def _is_written(self) -> None:
        self._host.counts["written"] += 1
        if self._unwritten:
            self._unwritten = False
            self._host.report("running", "answers are written again")

    def _not_written(self, error: BaseException) -> None:
        self._host.counts["unwritten"] += 1
        if not self._unwritten and self._port is not None and self._port.state == "running":
            self._unwritten = True
            self._host.report("degraded", f"an answer was not written: {error}")


class SerialOutputSettings(LineSettings, frozen=True, forbid_unknown_fields=True):
    """`[outputs.NAME]` with `kind = "serial"`."""

    framing: Framing = Line()
    """How an answer becomes a frame."""


class SerialOutput:
    """See edgehost/plugin.py, Output. A user of its port that does not listen."""

    Settings: ClassVar[type[Struct]] = SerialOutputSettings
    prompt = False

    def __init__(self, settings: SerialOutputSettings, host: OutputHost) -> None:
        self.function = host.function_name
        self.line: LineSettings = settings
        self._host = host
        self._codec: Codec = make_codec(settings.framing)
        self._port: Port | None = None

    async def start(self) -> None:
        """Join the port. TriggerError: no such port here, or used with other settings."""
        self._port = self._host.shared(Ports.KEY, Ports).use(self, self._host.config)
        await self._port.tried.wait()

    def send(self, event: Event, response: Response) -> asyncio.Future[None] | None:
        """None when the kernel has the frame, else done when it has. TriggerError: the port is away, or takes nothing."""
        if not response.body:
            return None
        assert self._port is not None
        try:
            return self._port.write(self._codec.encode(response.body))
        except ValueError as error:
            raise TriggerError(str(error)) from None

    async def stop(self) -> None:
        """Leave the port; what waits is written first."""
        if self._port is not None:
            await self._port.leave(self)

    def received(self, data: bytes) -> None:
        """An output does not listen."""

    def port_is(self, state: State, message: str) -> None:
        """Written to the log: an output has no state of its own."""
        if state != "running":
            self._host.log.warning("%s", message)
