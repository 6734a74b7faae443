"""How JSON becomes values in events, and values JSON in answers and log fields (handler contract, "What a return value becomes").

NaN and the infinities become the strings "NaN", "Infinity" and "-Infinity"; an object JSON does not know becomes what its
`__log__()` gives, else its `repr`, else its `str`.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

JSON = "application/json"

_DEEPEST = 64
_INT_LEAST, _INT_MOST = -(2**63), 2**64 - 1


def parse_json(body: Any) -> Any:
    """The value of a JSON text (UTF-8 bytes), or `body` itself where it is none; accepts exactly what `json.loads` accepts.

    msgspec gives the same values two to five times as fast, but refuses some texts that json.loads takes (NaN, 1e400, a lone
    surrogate), so what it refuses is tried again.
    """
    try:
        return _decode_json(body)
    except Exception:
        try:
            return json.loads(str(body, "utf-8"))
        except Exception:
            return body


def dumps(value: Any) -> str:
    """The JSON text of an answer, character for character as Nuclio writes it.

    Raises TypeError for a dict key that is not a str, number, bool or None, and ValueError for a structure that contains itself.
    """
    try:
        return _encode(value)
    except ValueError as error:
        if "Circular" in str(error):
            raise
        return _encode(finite(value))


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity in its dicts, lists and tuples replaced by its name."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _name(value)
    if isinstance(value, dict):
        return {finite(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def described(value: Any) -> Any:
    """What stands for an object JSON does not know. Never raises: a log line must not fail because of what it shows."""
    try:
        return value.__log__()
    except Exception:
        try:
            return value.__repr__()
        except Exception:
            try:
                return str(value)
            except Exception as error:
                return f"Unable to serialize object: {error}"


def jsonable(value: Any, depth: int = 0) -> Any:
    """`value` made of dict, list, str, int, float, bool and None alone. Never raises; an integer beyond 64 bits becomes a str."""
    if value is None or type(value) in (str, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int(value)
        return number if _INT_LEAST <= number <= _INT_MOST else str(number)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name(value)
    if depth >= _DEEPEST:
        return _shortened(value)
    if isinstance(value, dict):
        return {key if type(key) is str else str(key): jsonable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item, depth + 1) for item in value]
    return jsonable(described(value), depth + 1)


def _name(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _shortened(value: Any) -> str:
    """Deeper than any log reader follows, or a structure that contains itself."""
    return f"<{type(value).__name__}>"


_decode_json = msgspec.json.decode
_encode = json.JSONEncoder(allow_nan=False, default=lambda value: finite(described(value))).encode
