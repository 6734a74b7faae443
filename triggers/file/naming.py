"""Names of files as text. To the kernel they are bytes; Python holds them as os.fsdecode does."""

from __future__ import annotations

import os
from urllib.parse import quote


def readable(path: str) -> str:
    r"""A path for people and headers: a byte that is no UTF-8 becomes `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def url_of(path: str) -> str:
    """`file:///...`, exact for every name."""
    return f"file://{quote(os.fsencode(path))}"
