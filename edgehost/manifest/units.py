"""Readable durations and sizes: `1h30m` to seconds, `128MiB` to bytes. Pure; knows nothing of keys, tables or files.

Durations follow Go's ParseDuration, which Nuclio's manifests use, with days added. Sizes take SI (`MB`, 1000) and IEC units
(`MiB`, 1024) and Kubernetes quantities (`128Mi`, `500M`; apimachinery, resource.Quantity).
"""

from __future__ import annotations

import math
import re

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}

_NUMBER = r"\d{1,18}(?:\.\d{1,18})?"
_DURATION = re.compile(rf"({_NUMBER})\s*(ms|us|µs|ns|d|h|m|s)", re.ASCII)
_SIZE = re.compile(rf"({_NUMBER})(?:[eE](\d{{1,2}}))?\s*(?:([kKMGT])(i?)([bB]?)|([kmgt])(i?)[bB]|[bB])?", re.ASCII)

DURATION_FORM = 'a number of seconds, or text such as "500ms", "30s" or "1h30m"'
SIZE_FORM = 'a number of bytes, or text such as "128MiB" or "4 MB"'


def seconds(text: str) -> int | float | None:
    """The seconds a duration names, None if it is not one. Whole seconds are an int, so they fit an integer key as well."""
    rest = text.strip()
    if re.fullmatch(_NUMBER, rest, re.ASCII):
        return _plain(float(rest))
    total = 0.0
    while rest:
        part = _DURATION.match(rest)
        if part is None:
            return None
        total += float(part[1]) * _SECONDS[part[2]]
        rest = rest[part.end() :].lstrip()
    return _plain(round(total, 9)) if text.strip() else None


def size_bytes(text: str) -> int | None:
    """The bytes a size names, None if it is not one. A fraction of a byte is rounded up."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    number, exponent, upper, upper_binary, _, lower, lower_binary = found.groups()
    prefix = (upper or lower or "").lower()
    step = 1024 if upper_binary or lower_binary else 1000
    factor: int = 10 ** int(exponent or 0) * step ** _POWERS.get(prefix, 0)
    return math.ceil(float(number) * factor)


def _plain(number: float) -> int | float:
    return int(number) if number.is_integer() else number
