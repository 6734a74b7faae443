"""Values that a Modbus device holds, read on an interval: an event for what has changed.

    a read                        the trigger
    every register answered       running
    some are refused              degraded, naming them; the others are told, and it is read on at the interval
    no answer, no connection      degraded; what was read before that is told; tried again with back-off (edgehost/polling)

What an event told that nobody heard (it was dropped, or the function was not there) is told again after the next read. A request
that is refused as a whole is halved until the good registers come through, and stays halved. The device is only read: nothing
here writes to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import partial
from typing import ClassVar

import msgspec
from msgspec import Struct

from edgehost.event import Event, Response
from edgehost.intake import NOT_HANDLED, Intake
from edgehost.numbering import Numbering
from edgehost.plugin import TriggerHost
from edgehost.polling import Poller
from edgehost.triggers.modbus.master import Master, RefusedError, SilentError
from edgehost.triggers.modbus.registers import Value, to_tell
from edgehost.triggers.modbus.requests import Request, plan
from edgehost.triggers.modbus.settings import ModbusSettings
from edgehost.triggers.modbus.wire import Wire, Wires
from edgehost.tty import Ports

UNIT_HEADER = "X-Edgehost-Unit"
_UNHEARD = NOT_HANDLED | {"dropped", "queue_full", "no_worker"}
"""Answers to events that no worker has begun."""
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE = 1, 2, 3
_REFUSALS = {
    _ILLEGAL_FUNCTION: "the device has no such table",
    _ILLEGAL_ADDRESS: "the device has nothing at this address; check table and address, which count from 0: 40001 in a manual is "
    "address 0 of holding, 30001 of input",
    _ILLEGAL_VALUE: "the device does not give so many at once, or not from here",
    4: "the device failed",
    5: "the device takes longer",
    6: "the device is busy",
    8: "the device's memory has a parity error",
    10: "the gateway has no path to the unit",
    11: "the gateway gets no answer from the unit",
}


class ModbusTrigger:
    """See edgehost/plugin.py, Trigger."""

    Settings: ClassVar[type[Struct]] = ModbusSettings
    replies: ClassVar[bool] = False

    def __init__(self, settings: ModbusSettings, host: TriggerHost) -> None:
        self._settings = settings
        self._host = host
        self._intake = Intake(settings.intake, host)
        self._poller = Poller(settings.interval_s, settings.first, self._read, host)
        self._requests = plan(settings.registers, settings.max_gap)
        self._told: dict[str, Value] = {}
        self._ids = Numbering(host.origin.name)
        self._wire: Wire | None = None

    async def start(self) -> None:
        """Begin to read. TriggerError: no such port here, or one that is used with other settings."""
        settings, host = self._settings, self._host
        wires = host.shared(Wires.KEY, Wires)
        if settings.url:
            wire: Wire = wires.connection(settings.url)
        else:
            wire = wires.serial(host.function_name, settings, host.shared(Ports.KEY, Ports), host.config, self._poller.nudge)
        self._wire = wire
        self._master = Master(wire, settings.unit, settings.timeout_s, settings.retries)
        self._poller.start(f"modbus {host.function_name}/{host.origin.name}")

    async def stop(self) -> None:
        """Break off a read; return when every event has been answered."""
        await self._poller.stop()
        await self._intake.drain()
        if self._wire is not None:
            await self._wire.leave()

    async def _read(self) -> str:
        """All requests once; which registers were refused."""
        waiting, refused = deque(self._requests), list[str]()
        values: dict[str, Value] = {}
        self._requests = []
        try:
            while waiting:
                request = waiting[0]
                try:
                    values.update(request.values(await self._ask(request)))
                except RefusedError as error:
                    if error.number in (_ILLEGAL_ADDRESS, _ILLEGAL_VALUE) and len(request.registers) > 1:
                        waiting.popleft()
                        waiting.extendleft(reversed(request.halves()))
                        continue
                    refused.append(_refusal(request, error.number))
                except SilentError:
                    waiting.rotate(-1)  # the last one next time: it keeps no other from being read
                    raise
                self._requests.append(waiting.popleft())
        finally:
            self._requests.extend(waiting)
            self._tell(values)
        if refused:
            self._host.counts["refused"] += len(refused)
        return "; ".join(refused)

    async def _ask(self, request: Request) -> list[int]:
        self._host.counts["requests"] += 1
        return list(await self._master.read(request))

    def _tell(self, values: dict[str, Value]) -> None:
        """Hand over what the function is to hear of it."""
        fresh = to_tell(values, self._told, self._settings.registers, self._settings.emit)
        if not fresh:
            return
        self._told.update(fresh)
        host = self._host
        event = Event(
            msgspec.json.encode(fresh),
            "application/json",
            self._ids.next(),
            datetime.now(timezone.utc),
            host.origin,
            headers={UNIT_HEADER: str(self._settings.unit)},
            url=self._master.wire.name,
        )
        self._intake.offer(event, partial(self._answered, fresh))

    def _answered(self, told: Mapping[str, Value], response: Response) -> None:
        """Forget what the function was to hear and did not, unless something else was told since."""
        if response.code in _UNHEARD:
            for name, value in told.items():
                if name in self._told and self._told[name] == value:
                    del self._told[name]


def _refusal(request: Request, number: int) -> str:
    return f"{request.names} ({request.table} {request.address}): {_REFUSALS.get(number, 'refused')} (exception {number})"
