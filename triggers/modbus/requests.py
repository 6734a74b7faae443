"""Requests: which registers are read together. Pure.

Neighbours of one table go into one request, up to the sizes a PDU can carry (MODBUS Application Protocol V1.1b3, 6.1 and 6.3),
and over gaps of `max_gap` that nobody asked for. If a device refuses a gap or one of the registers, the request is halved until
the others come through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgehost.triggers.modbus.registers import Register, Table, Value

MOST_REGISTERS = 125
MOST_BITS = 2000


@dataclass(frozen=True)
class Request:
    """One request: the named registers, in order of their addresses, at least one of them."""

    table: Table
    registers: tuple[tuple[str, Register], ...]

    @property
    def address(self) -> int:
        return self.registers[0][1].address

    @property
    def count(self) -> int:
        """Registers, or bits, from the first to the last that is wanted."""
        return max(register.address + register.size for _, register in self.registers) - self.address

    @property
    def names(self) -> str:
        return ", ".join(name for name, _ in self.registers)

    def halves(self) -> tuple[Request, Request]:
        """The two requests this becomes when it is refused. It must be of more than one register."""
        middle = len(self.registers) // 2
        return Request(self.table, self.registers[:middle]), Request(self.table, self.registers[middle:])

    def values(self, raw: Sequence[int]) -> dict[str, Value]:
        """The values of its registers, from the `count` that were read."""
        return {
            name: register.value(raw[register.address - self.address :][: register.size]) for name, register in self.registers
        }


def plan(registers: Mapping[str, Register], max_gap: int) -> list[Request]:
    """As few requests as cover all registers."""
    requests: list[Request] = []
    for name, register in sorted(registers.items(), key=lambda item: (item[1].table, item[1].address, item[1].size)):
        last = requests[-1] if requests else None
        if last is not None and _joins(last, register, max_gap):
            requests[-1] = Request(last.table, (*last.registers, (name, register)))
        else:
            requests.append(Request(register.table, ((name, register),)))
    return requests


def _joins(request: Request, register: Register, max_gap: int) -> bool:
    most = MOST_BITS if register.bits else MOST_REGISTERS
    end = request.address + request.count
    near = request.table == register.table and register.address - end <= max_gap
    return near and max(end, register.address + register.size) - request.address <= most
