"""Reads a small text or TOML file, and says in one line why it cannot. Knows nothing of what the file means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from edgehost.errors import EdgehostError

_MOST_BYTES = 1024 * 1024


def read_text(path: Path, name: str, error: type[EdgehostError]) -> str:
    """The text of a manifest or configuration file, called `name` in messages. Raises `error` when there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as reason:
        raise error(f"{name}: cannot be read: {reason.strerror or reason}") from None
    if len(data) > _MOST_BYTES:
        raise error(f"{name}: is larger than {_MOST_BYTES // 1024} KiB; this is not such a file")
    if data.startswith(b"\xef\xbb\xbf"):
        raise error(f"{name}: starts with a byte order mark (BOM); save it as UTF-8 without one")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as reason:
        line = data.count(b"\n", 0, reason.start) + 1
        byte = f"0x{data[reason.start]:02x}"
        raise error(f"{name}: line {line} holds the byte {byte}, which is not UTF-8; save the file as UTF-8") from None


def read_toml(path: Path, name: str, error: type[EdgehostError]) -> dict[str, Any]:
    """The tables of a TOML file; raises `error` with line and column when it is not TOML."""
    text = read_text(path, name, error)
    try:
        return msgspec.toml.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as reason:
        raise error(f"{name} {_toml_problem(str(reason), text)}") from None
    except RecursionError:
        raise error(f"{name}: is nested too deeply") from None


def _toml_problem(message: str, text: str) -> str:
    """tomllib's "Cannot declare ('t', 'x') twice (at line 3, column 5)" as "line 3, column 5: [t.x] is written twice; …"."""
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    what, line, column = found.groups() if found else (message, None, None)
    place = f"line {line}, column {column}" if line else f"line {max(1, len(text.splitlines()))}, end of the file"
    twice = re.fullmatch(r"Cannot declare \((.*?),?\) twice", what)
    if twice:
        keys = re.findall(r"""['"]([^'"]*)['"]""", twice[1])
        return f"{place}: [{'.'.join(keys)}] is written twice; keep one"
    if what == "Cannot overwrite a value":
        return f"{place}: the same key is written twice; keep one"
    return f"{place}: not TOML: {what[:1].lower()}{' '.join(what[1:].split())}"
