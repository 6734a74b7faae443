"""`modbus-rtu`: the frames of a Modbus line, whose CRC is right.

The standard ends a frame by a pause of 3.5 characters, which USB adapters and busy systems do not keep. So a frame also ends
where its function code says (MODBUS Application Protocol V1.1b3, 6): as a request or as a response, whichever the CRC bears out.
The pause ends frames of other function codes, and finds the beginning again after garbage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from edgehost.framing.codec import Gap
from edgehost.framing.hunt import HuntCodec

LONGEST = 256
"""MODBUS over Serial Line V1.02, 2.5.1: address, 253 bytes of PDU, CRC."""
_SHORTEST = 4


class ModbusRtu(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="modbus-rtu"):
    """`framing = "modbus-rtu"`."""

    gap_s: Gap = 0.02
    """The pause that ends a frame whose function code does not say its size. USB adapters deliver in steps of up to 16 ms."""


Size = Callable[[Sequence[int]], "int | None"]
"""A frame's size from its first bytes; None where it cannot be a frame of that form."""


def _just(size: int) -> tuple[int, Size]:
    return 2, lambda _: size


def _counted(at: int, more: int, least: int = 1) -> tuple[int, Size]:
    """A byte at `at` counts what follows it; `more` bytes are there beside."""
    return at + 1, lambda head: head[at] + more if head[at] >= least else None


def _reading(most: int) -> tuple[int, Size]:
    """A request to read: the quantity at 4 and 5 is from 1 to `most`, which tells it from most responses."""
    return 6, lambda head: 8 if 1 <= head[4] << 8 | head[5] <= most else None


_FORMS: dict[int, tuple[tuple[int, Size], ...]] = {
    **dict.fromkeys((1, 2), (_reading(2000), _counted(2, 5))),
    **dict.fromkeys((3, 4), (_reading(125), _counted(2, 5, 2))),
    **dict.fromkeys((5, 6, 8), (_just(8),)),
    7: (_just(4), _just(5)),
    11: (_just(4), _just(8)),
    12: (_just(4), _counted(2, 5)),
    **dict.fromkeys((15, 16), (_just(8), _counted(6, 9))),
    17: (_just(4), _counted(2, 5)),
    **dict.fromkeys((20, 21), (_counted(2, 5),)),
    22: (_just(10),),
    23: (_counted(10, 13, 2), _counted(2, 5, 2)),
    24: (_just(6), (4, lambda head: (head[2] << 8 | head[3]) + 6)),
}
"""By function code: the forms of its request and its response, each with the bytes needed to tell its size."""


class ModbusRtuCodec(HuntCodec):
    """Address and PDU, without the CRC."""

    wrong = "bad_checksum"

    def __init__(self, settings: ModbusRtu) -> None:
        super().__init__(b"", LONGEST)
        self.gap_s = settings.gap_s

    def sizes(self, held: bytearray, at: int) -> Sequence[int] | None:
        head = held[at : at + 11]
        if len(head) < 2:
            return None
        if head[0] > 247 or not head[1] & 0x7F:
            return ()
        forms = (_just(5),) if head[1] & 0x80 else _FORMS.get(head[1])
        if forms is None:  # only the pause tells where it ends
            return None if len(held) - at <= LONGEST else ()
        told = {size(head) if len(head) >= needed else needed + 2 for needed, size in forms}
        return sorted((size for size in told if size is not None and size <= LONGEST), reverse=True)

    def accept(self, frame: bytes) -> bytes | None:
        return frame[:-2] if len(frame) >= _SHORTEST and crc(frame) == 0 else None

    def idle(self) -> list[bytes]:
        """What has come since the last frame is one, whatever its function code; else there may be some in it."""
        whole = self.accept(bytes(self._held))
        if whole is None:
            return super().idle()
        self._held.clear()
        self._lost = False
        return [whole]

    def encode(self, body: bytes) -> bytes:
        """Address and PDU with their CRC."""
        if not 2 <= len(body) <= LONGEST - 2:
            raise ValueError(f"the answer has {len(body)} bytes; a Modbus frame has 2 to {LONGEST - 2} before its CRC")
        return body + crc(body).to_bytes(2, "little")


def _table() -> tuple[int, ...]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_CRC = _table()


def crc(data: bytes) -> int:
    """CRC-16/MODBUS (MODBUS over Serial Line V1.02, 6.2.2); 0 over a frame that ends with its own."""
    value = 0xFFFF
    for byte in data:
        value = value >> 8 ^ _CRC[(value ^ byte) & 0xFF]
    return value
