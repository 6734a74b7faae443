"""Sizes as people read them: `53.4 MiB`, to three digits. Pure."""

from __future__ import annotations


def roughly(size_bytes: float) -> str:
    """The size in the unit in which it has one to four digits before the point."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.3g} {unit}" if size_bytes < 1000 * factor else f"{size_bytes / factor:.0f} {unit}"
    return f"{size_bytes:.0f} bytes"
