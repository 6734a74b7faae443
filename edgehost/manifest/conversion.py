"""From a table of a file to a frozen struct: readable spellings first, then msgspec, then its refusal in words. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, TypeVar, get_type_hints

import msgspec
from msgspec import Struct, inspect

from edgehost.errors import EdgehostError
from edgehost.manifest.problem import KeyPath, find_mistake, from_message, unknown_key
from edgehost.manifest.spelling import plain

S = TypeVar("S", bound=Struct)


def to_struct(table: Mapping[str, Any], struct: type[S], path: KeyPath = (), *, beside: Collection[str] = ()) -> S:
    """The struct a table says. Raises Mistake; `path` leads to the table, `beside` are keys of it that others have read."""
    kind = _struct_type(struct)
    table = plain(table, kind, path)
    _refuse_unknown(table, kind, path, beside)
    try:
        return msgspec.convert(table, struct)
    except (msgspec.ValidationError, EdgehostError) as error:
        raise find_mistake(table, kind, path) or from_message(str(error), path) from None


def to_fields(
    table: Mapping[str, Any], struct: type[Struct], *, without: Collection[str], path: KeyPath = (), beside: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of `struct` a table says, except those named in `without`, which it may not hold. Raises Mistake."""
    kind = _struct_type(struct, frozenset(without))
    table = plain(table, kind, path)
    _refuse_unknown(table, kind, path, beside)
    mistake = find_mistake(table, kind, path)
    if mistake:
        raise mistake
    hints = get_type_hints(struct, include_extras=True)
    return {key: _field(value, hints[key], (*path, key)) for key, value in table.items()}


def _refuse_unknown(table: Mapping[str, Any], kind: inspect.StructType, path: KeyPath, beside: Collection[str]) -> None:
    known = [field.encode_name for field in kind.fields]
    unknown = next((key for key in table if key not in known), None)
    if unknown is not None and kind.forbid_unknown_fields:
        raise unknown_key((*path, str(unknown)), [*known, *beside])


def _field(value: Any, hint: Any, path: KeyPath) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise from_message(str(error), path) from None


@lru_cache(maxsize=64)
def _struct_type(struct: type[Struct], without: frozenset[str] = frozenset()) -> inspect.StructType:
    kind = inspect.type_info(struct)
    assert isinstance(kind, inspect.StructType)
    if not without:
        return kind
    fields = tuple(field for field in kind.fields if field.encode_name not in without)
    return inspect.StructType(struct, fields, forbid_unknown_fields=True)
