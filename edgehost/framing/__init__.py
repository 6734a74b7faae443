"""Framing: what a stream of bytes is cut into. Codecs without input or output, for every source that hears a stream.

A manifest says `framing = "nmea"`, or `framing = { kind = "length", length_bytes = 2, ... }`; a trigger's Settings hold it as
`framing: Framing = Line()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgehost.framing.cobs import Cobs, CobsCodec
from edgehost.framing.codec import COUNTED, Codec
from edgehost.framing.delimiter import Delimiter, delimiter_codec
from edgehost.framing.fixed import Fixed, FixedCodec
from edgehost.framing.idle import Idle, IdleCodec
from edgehost.framing.length import Length, LengthCodec
from edgehost.framing.line import Line, LineCodec
from edgehost.framing.modbus_rtu import ModbusRtu, ModbusRtuCodec
from edgehost.framing.nmea import Nmea, NmeaCodec
from edgehost.framing.regex import Regex, RegexCodec
from edgehost.framing.slip import Slip, SlipCodec

Framing = Line | Delimiter | Fixed | Length | Idle | Slip | Cobs | Nmea | ModbusRtu | Regex

_CODECS: dict[type, Callable[[Any], Codec]] = {
    Line: LineCodec,
    Delimiter: delimiter_codec,
    Fixed: FixedCodec,
    Length: LengthCodec,
    Idle: IdleCodec,
    Slip: SlipCodec,
    Cobs: CobsCodec,
    Nmea: NmeaCodec,
    ModbusRtu: ModbusRtuCodec,
    Regex: RegexCodec,
}


def make_codec(framing: Framing) -> Codec:
    """A codec for one stream."""
    return _CODECS[type(framing)](framing)


__all__ = [
    "COUNTED",
    "Cobs",
    "Codec",
    "Delimiter",
    "Fixed",
    "Framing",
    "Idle",
    "Length",
    "Line",
    "ModbusRtu",
    "Nmea",
    "Regex",
    "Slip",
    "make_codec",
]
