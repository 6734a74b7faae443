"""How a manifest writes bytes: as text (`"\\r\\n"`), or in hexadecimal after 0x (`"0x0d0a"`)."""

from __future__ import annotations


def octets(key: str, written: str) -> bytes:
    """The bytes that `written` stands for. Raises ValueError, naming `key`, for hexadecimal that is none."""
    if not written.startswith("0x"):
        return written.encode()
    try:
        return bytes.fromhex(written[2:])
    except ValueError:
        raise ValueError(f'{key}: {written!r} is not hexadecimal; write two digits for each byte, as in "0x0d0a"') from None
