"""The peer of the serial bench: a program that reads a line and checks its sentences. No agent, no workers.

    python -m tools.benches.bare_reader PORT     until it is ended
"""

from __future__ import annotations

import asyncio
import os
import sys


class Reader:
    """Counts the sentences whose checksum is right."""

    def __init__(self, port: str) -> None:
        self.sentences = 0
        self._descriptor = os.open(port, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        self._held = b""
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        *lines, self._held = (self._held + os.read(self._descriptor, 65536)).split(b"\r\n")
        self.sentences += sum(map(_is_right, lines))


def _is_right(line: bytes) -> bool:
    check = 0
    for byte in line[1:-3]:
        check ^= byte
    return check == int(line[-2:], 16)


async def main() -> None:
    """Read until somebody ends the process."""
    reader = Reader(sys.argv[1])
    await asyncio.Event().wait()
    print(reader.sentences)


if __name__ == "__main__":
    asyncio.run(main())
