"""Master: one request to a unit and its answer, over a wire. The frames and PDUs are pymodbus's; no thread, no client of its own.

    answered with values           they are returned
    answered with an exception     RefusedError, with its number
    no answer in `timeout_s`       sent again, `retries` times; then SilentError
    wire away or gone              TriggerError

pymodbus's client is not used: it does not tell why a connection failed, waits out every time-out of a connection that is lost,
and shares no serial port with others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest

from edgehost.errors import TriggerError
from edgehost.triggers.modbus.requests import Request
from edgehost.triggers.modbus.wire import Wire

_READS = {
    "holding": ReadHoldingRegistersRequest,
    "input": ReadInputRegistersRequest,
    "coil": ReadCoilsRequest,
    "discrete": ReadDiscreteInputsRequest,
}
_MOST_BYTES = 600
"""More than any frame has: what is longer is noise."""

# It logs what we report as a state, at every try.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)


class SilentError(TriggerError):
    """A unit did not answer."""


class RefusedError(TriggerError):
    """A unit answered with an exception; `number` is of the MODBUS Application Protocol V1.1b3, 7."""

    def __init__(self, number: int) -> None:
        super().__init__(f"exception {number}")
        self.number = number


class Master:
    """Asks one unit."""

    def __init__(self, wire: Wire, unit: int, timeout_s: float, retries: int) -> None:
        self.wire = wire
        self._unit = unit
        self._timeout_s = timeout_s
        self._retries = retries
        self._transaction = 0
        sockets = wire.name.startswith(("tcp:", "udp:"))
        self._framer = (FramerSocket if sockets else FramerRTU)(DecodePDU(False))

    async def read(self, request: Request) -> Sequence[int]:
        """The request's `count` registers or bits."""
        async with self.wire.lock:
            for _ in range(self._retries + 1):
                await self.wire.ready(self._timeout_s)
                try:
                    answer = await self._exchange(request)
                except asyncio.TimeoutError:
                    self.wire.unheard()
                    continue
                if answer.isError():
                    raise RefusedError(answer.exception_code)
                raw: Sequence[int] = (answer.registers or answer.bits)[: request.count]
                return raw
        tries = f", asked {self._retries + 1} times" if self._retries else ""
        raise SilentError(f"unit {self._unit} at {self.wire.name} does not answer within {self._timeout_s:g} s{tries}")

    async def _exchange(self, request: Request) -> Any:
        """One frame out, and the answer that belongs to it."""
        self._transaction = self._transaction % 0xFFFF + 1
        pdu = _READS[request.table](address=request.address, count=request.count, dev_id=self._unit)
        pdu.transaction_id = self._transaction
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Any] = loop.create_future()
        timer = loop.call_later(self._timeout_s, _expire, answered)
        self.wire.hear = partial(self._heard, bytearray(), pdu, answered)
        try:
            self.wire.write(self._framer.buildFrame(pdu))
            return await answered
        finally:
            timer.cancel()
            self.wire.hear = None

    def _heard(self, buffer: bytearray, request: Any, answered: asyncio.Future[Any], data: bytes | None) -> None:
        if answered.done():
            return
        if data is None:
            answered.set_exception(TriggerError(f"{self.wire.name} went away before the answer came"))
            return
        buffer += data
        try:
            used, answer = self._framer.handleFrame(bytes(buffer), self._unit, self._transaction)
        except Exception:  # a frame that pymodbus cannot make sense of is noise
            used, answer = len(buffer), None
        del buffer[: used if len(buffer) <= _MOST_BYTES else None]
        if answer is not None and _belongs(answer, request):
            answered.set_result(answer)


def _expire(answered: asyncio.Future[Any]) -> None:
    if not answered.done():
        answered.set_exception(asyncio.TimeoutError())


def _belongs(answer: Any, request: Any) -> bool:
    """Whether it answers this request, and not one whose answer came too late: RTU frames have no number."""
    if answer.isError():
        return bool(answer.function_code == request.function_code | 0x80)
    whole = len(answer.registers) == request.count or len(answer.bits) == (request.count + 7) // 8 * 8
    return bool(answer.function_code == request.function_code and whole)
