"""The kernel's GPIO chips, through the official gpiod package (libgpiod 2, character device uAPI v2, Linux 5.10 and newer).

One request a line: each has its own buffer and its own count of edges. Imported when a line of the kernel is first asked for.
"""

from __future__ import annotations

import errno
import os
import select
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from edgehost.errors import PluginError
from edgehost.gpio.line import BUFFER_EDGES, Chip, Edge, InputLine, InputWish, LineInfo, OutputLine, OutputWish, Place

if TYPE_CHECKING:
    from gpiod import LineRequest, LineSettings

_MOST_CONSUMER_BYTES = 31
"""linux/gpio.h, GPIO_MAX_NAME_SIZE, with its closing zero."""


class KernelDriver:
    """See edgehost/gpio/line.py, Driver. Raises PluginError where gpiod is not installed."""

    def __init__(self) -> None:
        try:
            import gpiod
        except ImportError as error:
            raise PluginError(
                f"the kernel's GPIO lines need the package gpiod ({error}); pip install 'edgehost[gpio]', "
                "or use simulated lines: driver = 'sim'"
            ) from error
        self._gpiod = gpiod

    def chips(self) -> list[Chip]:
        found, denied = [], None
        for path in sorted(Path("/dev").glob("gpiochip*"), key=lambda path: (len(path.name), path.name)):
            if path.is_symlink():  # an old name of a chip that is listed already (Raspberry Pi 5: gpiochip4)
                continue
            try:
                with self._gpiod.Chip(str(path)) as chip:
                    info = chip.get_info()
                    found.append(Chip(str(path), info.name, info.label, info.num_lines))
            except PermissionError as error:
                denied = error
            except OSError:
                continue  # it went between the two calls, or is none
        if denied is not None and not found:
            raise denied
        return found

    def lines(self, chip: Chip) -> list[LineInfo]:
        with self._gpiod.Chip(chip.path) as opened:
            return [_info(opened.get_line_info(offset), chip.path) for offset in range(chip.size)]

    def line(self, place: Place) -> LineInfo:
        with self._gpiod.Chip(place.chip) as opened:
            return _info(opened.get_line_info(place.offset), place.chip)

    def input(self, place: Place, wish: InputWish, consumer: str) -> InputLine:
        line = self._gpiod.line
        settings = self._gpiod.LineSettings(
            direction=line.Direction.INPUT,
            edge_detection=line.Edge[wish.edges.upper()],
            bias=line.Bias[_BIAS[wish.pull]],
            active_low=wish.active_low,
            debounce_period=timedelta(seconds=wish.debounce_s),
        )
        return _Input(self._request(place, settings, consumer), place.offset)

    def output(self, place: Place, wish: OutputWish, value: bool, consumer: str) -> OutputLine:
        line = self._gpiod.line
        settings = self._gpiod.LineSettings(
            direction=line.Direction.OUTPUT,
            drive=line.Drive[wish.drive.upper().replace("-", "_")],
            active_low=wish.active_low,
            output_value=line.Value.ACTIVE if value else line.Value.INACTIVE,
        )
        return _Output(self._request(place, settings, consumer), place.offset)

    def provide(self, name: str, chip: str) -> None:
        """The kernel has the lines it has."""

    def _request(self, place: Place, settings: LineSettings, consumer: str) -> LineRequest:
        consumer = consumer.encode()[:_MOST_CONSUMER_BYTES].decode(errors="ignore")
        try:
            request = self._gpiod.request_lines(place.chip, {place.offset: settings}, consumer, BUFFER_EDGES)
        except ValueError as error:  # how gpiod says that the chip has fewer lines
            raise OSError(errno.EINVAL, str(error)) from error
        os.set_blocking(request.fd, False)
        return request


_BIAS = {"as-is": "AS_IS", "none": "DISABLED", "up": "PULL_UP", "down": "PULL_DOWN"}


class _Line:
    """What inputs and outputs have in common."""

    def __init__(self, request: LineRequest, offset: int) -> None:
        self._request = request
        self._offset = offset
        self._poll = select.poll()
        self._poll.register(request.fd, 0)

    @property
    def value(self) -> bool:
        return bool(self._request.get_value(self._offset))

    def alive(self) -> bool:
        # Kernels before 6.6 wake nobody when a chip goes, but say it to everyone who asks (linereq_poll).
        return not self._poll.poll(0)

    def release(self) -> None:
        if self._request:  # older releases of gpiod raise when it is released twice
            self._request.release()


class _Input(_Line):
    """See edgehost/gpio/line.py, InputLine."""

    def __init__(self, request: LineRequest, offset: int) -> None:
        super().__init__(request, offset)
        self.fd = request.fd

    def read(self) -> list[Edge]:
        from gpiod import EdgeEvent

        rising = EdgeEvent.Type.RISING_EDGE
        try:
            events = self._request.read_edge_events(BUFFER_EDGES)
        except BlockingIOError:
            return []
        return [Edge(event.event_type is rising, event.timestamp_ns, event.line_seqno) for event in events]


class _Output(_Line):
    """See edgehost/gpio/line.py, OutputLine."""

    def set(self, value: bool) -> None:
        from gpiod.line import Value

        if not self._request:  # gpiod's own error for this is no OSError
            raise OSError(errno.ENODEV, "the line was given back")
        self._request.set_value(self._offset, Value.ACTIVE if value else Value.INACTIVE)


def _info(info: object, chip: str) -> LineInfo:
    from gpiod import LineInfo as KernelInfo
    from gpiod.line import Direction

    assert isinstance(info, KernelInfo)
    consumer = (info.consumer or "the kernel") if info.used else ""
    return LineInfo(Place(chip, info.offset), info.name or "", consumer, info.direction is Direction.OUTPUT, info.active_low)
