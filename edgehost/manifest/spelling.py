"""The readable spellings of a table: `timeout = "1h30m"` for `timeout_s = 5400`, `memory = "128MiB"` for `memory_bytes`,
`framing = "nmea"` for `framing = { kind = "nmea" }`.

Every key of the project that ends in `_s` or `_bytes` may be written without its unit, as text with one or as a plain number. The
type of the struct the table becomes says which keys those are, so a plugin's settings get the spellings without doing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import inspect

from edgehost.manifest.problem import KeyPath, Mistake, member, show, tags
from edgehost.manifest.units import DURATION_FORM, SIZE_FORM, seconds, size_bytes

_UNITS: dict[str, tuple[Callable[[str], int | float | None], str]] = {
    "_s": (seconds, DURATION_FORM),
    "_bytes": (size_bytes, SIZE_FORM),
}


def plain(value: Any, kind: inspect.Type, path: KeyPath = ()) -> Any:
    """`value` with every readable spelling replaced by the plain one. Raises Mistake for one that cannot be read."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        if isinstance(value, str) and value in tags(kind):
            value = {tags(kind)[value].tag_field: value}
        kind = member(kind, value) or kind
    if isinstance(kind, inspect.StructType) and isinstance(value, Mapping):
        return _plain_table(value, {field.encode_name: field.type for field in kind.fields}, path)
    if isinstance(kind, inspect.DictType) and isinstance(value, Mapping):
        return {key: plain(item, kind.value_type, (*path, str(key))) for key, item in value.items()}
    if isinstance(kind, (inspect.ListType, inspect.VarTupleType)) and isinstance(value, list):
        return [plain(item, kind.item_type, (*path, index)) for index, item in enumerate(value)]
    return value


def _plain_table(table: Mapping[str, Any], fields: Mapping[str, inspect.Type], path: KeyPath) -> dict[str, Any]:
    plain_table: dict[str, Any] = {}
    for key, value in table.items():
        name, suffix = _field(str(key), fields)
        if name in plain_table:
            raise Mistake((*path, str(key)), f"{name} is given twice, with its unit in the key and without; keep one")
        unit = _UNITS.get(suffix)
        if unit and isinstance(value, str):
            plain_table[name] = _read(value, unit, (*path, str(key)))
        else:
            plain_table[name] = plain(value, fields[name], (*path, str(key))) if name in fields else value
    return plain_table


def _field(key: str, fields: Mapping[str, inspect.Type]) -> tuple[str, str]:
    """The field a key stands for, and the unit its name ends in."""
    if key in fields:
        return key, next((suffix for suffix in _UNITS if key.endswith(suffix)), "")
    return next(((key + suffix, suffix) for suffix in _UNITS if key + suffix in fields), (key, ""))


def _read(text: str, unit: tuple[Callable[[str], int | float | None], str], path: KeyPath) -> int | float:
    read, form = unit
    number = read(text)
    if number is None:
        raise Mistake(path, f"{show(text)} is not allowed; use {form}")
    return number
