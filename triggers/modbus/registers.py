"""Registers: what a device holds at an address, and its value in words a function can use. Pure.

Values wider than 16 bits lie in several registers, the high word first unless `word_order` says otherwise; the bytes of a
register are always big-endian (MODBUS Application Protocol V1.1b3, 4.2).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

Table = Literal["holding", "input", "coil", "discrete"]
Type = Literal["uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64", "string"]
Value = bool | int | float | str | None

_FORMATS = {
    "uint16": "H",
    "int16": "h",
    "uint32": "I",
    "int32": "i",
    "uint64": "Q",
    "int64": "q",
    "float32": "f",
    "float64": "d",
}
ADDRESSES = 65536


class Register(Struct, frozen=True, forbid_unknown_fields=True):
    """`[triggers.NAME.registers]`: `name = { … }`."""

    address: Annotated[int, Meta(ge=0, lt=ADDRESSES)]
    """Counted from 0, as on the wire: what a manual calls 40001 is address 0 of `holding`."""
    table: Table = "holding"
    type: Type | None = None
    """uint16, unless said. A coil or a discrete input is true or false, and has no type."""
    word_order: Literal["big", "little"] = "big"
    length: Annotated[int, Meta(ge=1, le=125)] | None = None
    """Registers a string takes; each holds two characters."""
    bit: Annotated[int, Meta(ge=0, le=15)] | None = None
    """One bit of a uint16 as true or false; 0 is the lowest."""
    scale: float = 1.0
    offset: float = 0.0
    """The value is raw * scale + offset."""
    deadband: Annotated[float, Meta(ge=0)] = 0.0
    """A change of the value up to this much is none."""

    def __post_init__(self) -> None:
        number = self.type != "string" and self.bit is None and not self.bits
        if self.bits and (self.type or self.bit is not None):
            raise ValueError(f"type: a {self.table} is true or false; leave type and bit out")
        if self.bit is not None and self.type not in (None, "uint16"):
            raise ValueError(f"bit: goes with uint16, not with {self.type}; leave one of them out")
        if (self.type == "string") is (self.length is None):
            raise ValueError('length: goes with type = "string", and a string needs it; give both or none')
        if not number and (self.scale != 1 or self.offset != 0 or self.deadband != 0):
            raise ValueError("scale: goes with numbers, as offset and deadband do; leave it out")
        if self.address + self.size > ADDRESSES:
            raise ValueError(f"address: {self.address} and {self.size} registers from there go beyond the last, {ADDRESSES - 1}")

    @property
    def bits(self) -> bool:
        """Whether its table is one of bits."""
        return self.table in ("coil", "discrete")

    @property
    def size(self) -> int:
        """Registers, or bits, that it takes."""
        if self.bits:
            return 1
        return self.length or struct.calcsize(_FORMATS[self.type or "uint16"]) // 2

    def value(self, raw: Sequence[int]) -> Value:
        """What `size` registers or bits mean. A float that is no number is None."""
        if self.bits:
            return bool(raw[0])
        if self.bit is not None:
            return bool(raw[0] >> self.bit & 1)
        data = struct.pack(f">{self.size}H", *(raw if self.word_order == "big" else reversed(raw)))
        if self.type == "string":
            return data.split(b"\0")[0].decode("utf-8", "replace").strip()
        (number,) = struct.unpack(f">{_FORMATS[self.type or 'uint16']}", data)
        if number != number or number in (float("inf"), float("-inf")):
            return None
        if self.scale == 1 and self.offset == 0:
            return number if isinstance(number, int) else _tidy(number, 7 if self.type == "float32" else 15)
        return _tidy(number * self.scale + self.offset, 15)

    def differs(self, value: Value, before: Value) -> bool:
        """Whether a value is another than the one told last."""
        if self.deadband and isinstance(value, (int, float)) and isinstance(before, (int, float)):
            return abs(value - before) > self.deadband
        return value != before


def to_tell(
    values: Mapping[str, Value], told: Mapping[str, Value], registers: Mapping[str, Register], emit: Literal["changed", "always"]
) -> dict[str, Value]:
    """Of what was read, what a function is to hear: all, or what is new or differs from what it heard last."""
    if emit == "always":
        return dict(values)
    return {name: value for name, value in values.items() if name not in told or registers[name].differs(value, told[name])}


def _tidy(number: float, digits: int) -> float:
    """Without the dust that binary fractions leave: 2305 * 0.1 is 230.5, and a float32 of 21.3 is 21.3."""
    return float(f"{number:.{digits}g}")
