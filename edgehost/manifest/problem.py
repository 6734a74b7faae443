"""What is wrong with a value read from a file, in words for the person who wrote the file.

msgspec decides whether a value fits its type; this module says why it does not, which msgspec's own text only half does (one
bound of two, no value, no name of a table inside a dict, no "did you mean"). Pure: knows nothing of files, functions or plugins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime, time
from typing import Any

from msgspec import inspect

KeyPath = tuple["str | int", ...]
"""Where a value stands: the keys and list positions that lead to it from the top of the file. An empty last key means the table
itself, rather than one value of it."""

_SHOWN = 60


class Mistake(Exception):  # noqa: N818 - it is what a person did, and never leaves the reader
    """One mistake in a file: where, and what to do about it. The reader of the file turns it into an EdgehostError."""

    def __init__(self, path: KeyPath, text: str) -> None:
        super().__init__(text)
        self.path = path
        self.text = text


def show(value: object) -> str:
    """A value as one short line, in TOML's spelling."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _short(quoted(value))
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, (list, tuple, set)):
        return "a list" if value else "an empty list"
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return "nothing" if value is None else _short(repr(value))


def quoted(text: str) -> str:
    """Text in quotes, with everything escaped that could break a line, move a cursor or hide what follows."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in escaped)


def choice(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *first, last = list(words) or ["nothing"]
    return f"{', '.join(first)} or {last}" if first else last


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`did you mean "qos"?` when something known is close, else what is known."""
    import difflib  # 200 KiB that an agent without mistakes need not hold

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6) or [k for k in known if k.casefold() == word.casefold()]
    if close:
        return f"did you mean {close[0]}?"
    return f"use {choice(sorted(known))}" if known else "nothing is allowed here"


def unknown_key(path: KeyPath, known: Collection[str]) -> Mistake:
    """The mistake of a key that nobody reads; `path` leads to the key."""
    return Mistake(path, f"no such key; {did_you_mean(str(path[-1]), known)}")


def not_allowed(path: KeyPath, value: object, allowed: str) -> Mistake:
    return Mistake(path, f"{show(value)} is not allowed; use {allowed}")


def allowed(kind: inspect.Type) -> str:
    """What a type takes, in words: `an integer from 0 to 2`."""
    kind = _bare(kind)
    if isinstance(kind, inspect.IntType):
        low = kind.ge if kind.ge is not None else None if kind.gt is None else kind.gt + 1
        high = kind.le if kind.le is not None else None if kind.lt is None else kind.lt - 1
        return "an integer" + _range(low, high) + (f" that is a multiple of {kind.multiple_of}" if kind.multiple_of else "")
    if isinstance(kind, inspect.FloatType):
        return "a number" + _range(kind.ge, kind.le, kind.gt, kind.lt)
    if isinstance(kind, inspect.StrType):
        pattern = f" that matches {kind.pattern}" if kind.pattern else ""
        return "text" + _length(kind, "characters", " that is not empty") + pattern
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.LiteralType):
        return choice(show(value) for value in kind.values)
    if isinstance(kind, inspect.UnionType):
        forms = [allowed(one) for one in _said(kind) if one not in tags(kind).values()] + [show(tag) for tag in tags(kind)]
        return choice(forms) if forms else "nothing"
    if isinstance(kind, _LISTS):
        return f"a list of {allowed(kind.item_type)}" + _length(kind, "entries", ", with at least one")
    if isinstance(kind, inspect.StructType):
        return f"a table with {choice(field.encode_name for field in kind.fields)}"
    return "a table" if isinstance(kind, inspect.DictType) else "a value of another type"


def find_mistake(value: Any, kind: inspect.Type, path: KeyPath = ()) -> Mistake | None:
    """The first thing in `value` that does not fit `kind`; None when all fits as far as its type tells."""
    kind = _bare(kind)
    if isinstance(kind, inspect.UnionType):
        return _in_union(value, kind, path)
    if not _same_shape(value, kind):
        return not_allowed(path, value, _with_hint(value, kind))
    if isinstance(kind, inspect.StructType):
        return _in_struct(value, kind, path)
    if isinstance(kind, inspect.DictType):
        return _first(find_mistake(value[key], kind.value_type, (*path, str(key))) for key in value)
    if isinstance(kind, _LISTS):
        if not _fits_length(value, kind):
            return not_allowed(path, value, allowed(kind))
        return _first(find_mistake(item, kind.item_type, (*path, index)) for index, item in enumerate(value))
    return None if _fits(value, kind) else not_allowed(path, value, allowed(kind))


def from_message(message: str, path: KeyPath = ()) -> Mistake:
    """msgspec's own text as a Mistake, for what only a struct's `__post_init__` can see: "topics: … - at `$.subscription`".

    A text that begins with a key's name and a colon is about that key, any other about the whole table.
    """
    found = re.fullmatch(r"(.*?)(?: - at (?:`key` in )?`\$(.*)`)?", message, re.DOTALL)
    steps = re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", found[2] or "") if found else []
    text = " ".join((found[1] if found else message).split())
    place = (*path, *(name or int(index) for name, index in steps))
    if text.startswith(("Expected ", "Invalid ", "Object ")):
        return Mistake(place, text)
    about = re.fullmatch(r"([a-z][a-z0-9_]*): (.+)", text)
    return Mistake((*place, about[1]), about[2]) if about else Mistake((*place, ""), text)


def tags(kind: inspect.UnionType) -> dict[str, inspect.StructType]:
    """The structs of a union that one key tells apart (`kind = "line"`), by what it says."""
    structs = (one for one in map(_bare, kind.types) if isinstance(one, inspect.StructType))
    return {str(struct.tag): struct for struct in structs if struct.tag_field is not None}


def member(kind: inspect.UnionType, value: object) -> inspect.Type | None:
    """The struct of a union that a table means; None if it is no table, or means none."""
    if not isinstance(value, Mapping):
        return None
    told = tags(kind)
    if told:
        return told.get(str(value.get(next(iter(told.values())).tag_field)))
    return next((one for one in map(_bare, kind.types) if isinstance(one, inspect.StructType)), None)


_LISTS = (inspect.ListType, inspect.VarTupleType, inspect.SetType, inspect.FrozenSetType)


def _in_union(value: Any, kind: inspect.UnionType, path: KeyPath) -> Mistake | None:
    told, meant = tags(kind), member(kind, value)
    if meant is not None:
        return find_mistake(value, meant, path)
    if told and isinstance(value, Mapping):
        key = str(next(iter(told.values())).tag_field)
        if key not in value:
            return Mistake((*path, key), f"missing; write {choice(map(show, told))}")
        return Mistake((*path, key), f"{show(value[key])} is not allowed; {did_you_mean(str(value[key]), told)}")
    alike = [one for one in kind.types if _same_shape(value, one)]
    if not alike and told and isinstance(value, str):
        return Mistake(path, f"{show(value)} is not allowed; {did_you_mean(value, told)}")
    return find_mistake(value, alike[0], path) if alike else not_allowed(path, value, allowed(kind))


def _in_struct(value: Mapping[Any, Any], kind: inspect.StructType, path: KeyPath) -> Mistake | None:
    fields = {field.encode_name: field for field in kind.fields}
    for key in value:
        if key not in fields and key != kind.tag_field and kind.forbid_unknown_fields:
            return unknown_key((*path, str(key)), fields)
    for name, field in fields.items():
        if name not in value and field.required:
            return Mistake((*path, name), f"missing; write {allowed(field.type)}")
    return _first(find_mistake(value[key], fields[key].type, (*path, key)) for key in value if key in fields)


def _fits(value: Any, kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.LiteralType):
        return any(type(value) is type(member) and value == member for member in kind.values)
    if isinstance(kind, (inspect.IntType, inspect.FloatType)):
        bounds = ((kind.ge, value.__ge__), (kind.le, value.__le__), (kind.gt, value.__gt__), (kind.lt, value.__lt__))
        within = all(limit is None or holds(type(value)(limit)) for limit, holds in bounds)
        return within and (kind.multiple_of is None or value % kind.multiple_of == 0)
    if isinstance(kind, inspect.StrType):
        return _fits_length(value, kind) and (kind.pattern is None or re.search(kind.pattern, value) is not None)
    return True


def _same_shape(value: Any, kind: inspect.Type) -> bool:
    """Whether the value is of the JSON-like kind the type wants, its bounds aside."""
    kind = _bare(kind)
    if isinstance(kind, inspect.BoolType):
        return isinstance(value, bool)
    if isinstance(kind, inspect.IntType):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(kind, inspect.FloatType):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(kind, inspect.StrType):
        return isinstance(value, str)
    if isinstance(kind, inspect.LiteralType):
        return _fits(value, kind)
    if isinstance(kind, (inspect.StructType, inspect.DictType)):
        return isinstance(value, Mapping)
    if isinstance(kind, inspect.NoneType):
        return value is None
    return isinstance(value, (list, tuple)) if isinstance(kind, _LISTS) else True


def _with_hint(value: object, kind: inspect.Type) -> str:
    """What is allowed, with the way out of the commonest slip: a number or a yes where text was meant."""
    if isinstance(kind, inspect.StrType) and isinstance(value, (int, float, date, time)):
        return f'{allowed(kind)}, in quotes: "{show(value)}"'
    return allowed(kind)


def _range(ge: float | None, le: float | None, gt: float | None = None, lt: float | None = None) -> str:
    if ge is not None and le is not None:
        return f" from {_number(ge)} to {_number(le)}"
    said = (("from {} up", ge), ("above {}", gt), ("up to {}", le), ("below {}", lt))
    parts = [form.format(_number(limit)) for form, limit in said if limit is not None]
    return f" {' and '.join(parts)}" if parts else ""


def _number(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(number)


def _length(kind: Any, units: str, not_empty: str) -> str:
    least, most = kind.min_length or 0, kind.max_length
    if most is not None:
        return f", {least} to {most} {units}" if least else f", up to {most} {units}"
    return "" if not least else not_empty if least == 1 else f", at least {least} {units}"


def _fits_length(value: Any, kind: Any) -> bool:
    return (kind.min_length or 0) <= len(value) and (kind.max_length is None or len(value) <= kind.max_length)


def _bare(kind: inspect.Type) -> inspect.Type:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return kind


def _said(kind: inspect.UnionType) -> list[inspect.Type]:
    """The members a file can hold: TOML has no null, and UNSET is a program's word."""
    return [member for member in kind.types if type(member).__name__ not in {"NoneType", "UnsetType"}]


def _first(mistakes: Iterable[Mistake | None]) -> Mistake | None:
    return next((mistake for mistake in mistakes if mistake is not None), None)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
