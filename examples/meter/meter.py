"""A make-believe meter to read: Modbus TCP with input registers 0 to 3 and coil 0. `python meter.py [PORT]`; Ctrl-C ends it."""

from __future__ import annotations

import asyncio
import math
import struct
import sys
import time

BEGUN = time.monotonic()


def registers() -> list[int]:
    """Voltage in 0.1 V, current in 0.01 A, energy in Wh as two registers."""
    seconds = time.monotonic() - BEGUN
    volts, amperes = 230 + 2 * math.sin(seconds / 7), 4 + 3 * math.sin(seconds / 3)
    return [round(volts * 10), round(amperes * 100), *divmod(1_000_000 + int(seconds), 65536)]


def answer(function: int, address: int, count: int) -> bytes:
    """The answer to one read: MODBUS Application Protocol V1.1b3, 6.1 and 6.4; else exception 1 or 2."""
    if function == 1 and address == 0 and count == 1:
        return bytes([1, 1, time.monotonic() % 20 < 10])
    if function == 4 and address + count <= 4:
        return struct.pack(f">BB{count}H", 4, 2 * count, *registers()[address : address + count])
    return bytes([function | 0x80, 2 if function in (1, 4) else 1])


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            number, _, _, unit, function, address, count = struct.unpack(">HHHBBHH", await reader.readexactly(12))
            told = answer(function, address, count)
            writer.write(struct.pack(">HHHB", number, 0, len(told) + 1, unit) + told)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 5020)
    print(f"a meter at tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
