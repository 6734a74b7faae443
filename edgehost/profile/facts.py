"""What a machine says of itself: device tree, DMI, processors, memory. Reads /proc and /sys under any root, decides nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

from msgspec import Struct


class Facts(Struct, frozen=True):
    """What recognition goes by. Empty where the machine does not say."""

    architecture: str
    """As `uname -m` says it."""
    model: str = ""
    compatible: tuple[str, ...] = ()
    """From the most specific to the least (Devicetree Specification, 2.3.1)."""
    dmi: str = ""
    """`VENDOR / PRODUCT`."""
    cores: int = 0
    memory_bytes: int = 0


def read_facts(root: Path, architecture: str) -> Facts:
    """The facts of the machine whose root file system is at `root`."""
    vendor, product = (text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    total = re.search(r"^MemTotal:\s+(\d+) kB", text(root / "proc/meminfo"), re.MULTILINE)
    return Facts(
        architecture,
        text(root / "proc/device-tree/model"),
        tuple(filter(None, text(root / "proc/device-tree/compatible").split("\0"))),
        " / ".join(filter(None, (vendor, product))),
        _count(text(root / "sys/devices/system/cpu/online")),
        int(total[1]) * 1024 if total else 0,
    )


def text(path: Path) -> str:
    """What a file of /proc or /sys holds, without the NUL or line end it closes with; empty when it cannot be read."""
    try:
        return path.read_text(errors="replace").rstrip("\0\n ")
    except OSError:
        return ""


def _count(ranges: str) -> int:
    """How many processors "0-3,5" are (the kernel's admin-guide/cputopology)."""
    found = re.findall(r"(\d+)(?:-(\d+))?", ranges)
    return sum(int(last or first) - int(first) + 1 for first, last in found)


def machine() -> str:
    """The architecture of the running kernel."""
    return os.uname().machine
