"""A value inside a JSON value, by a dotted path: `data.stations`, `properties.time`, `rows.0`. Pure."""

from __future__ import annotations

from typing import Any


def pick(value: Any, path: str) -> Any:
    """What `path` leads to. A key with dots is found too. Raises ValueError: which step is missing, and what is there."""
    if isinstance(value, dict) and path in value:
        return value[path]
    found, gone = value, ""
    for step in path.split("."):
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            raise ValueError(f"there is no {step!r} {f'in {gone!r}' if gone else 'at the top'}, which {_holds(found)}")
        gone = f"{gone}.{step}" if gone else step
    return found


def _holds(value: Any) -> str:
    if isinstance(value, dict):
        names = [str(key) for key in value]
        return f"has {', '.join(names[:8]) or 'nothing'}{' …' if len(names) > 8 else ''}"
    if isinstance(value, list):
        return f"is a list of {len(value)}"
    return f"is {'null' if value is None else 'a single value'}"
