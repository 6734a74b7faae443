"""Permanent: which exceptions no other try would mend, by the names in `[retry].permanent`. Pure; knows exceptions alone.

    "ValueError"              a class of this name, of any module
    "app.BadReading"          the class that lies there, or that is found there: json.JSONDecodeError is one of json.decoder

A name is looked up when an exception comes, in what is loaded by then: nothing is imported for it, as what nobody has imported
nobody has raised.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Collection
from operator import attrgetter
from typing import Any

_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())
"""Python 3.10 has none."""


def is_permanent(error: BaseException, names: Collection[str]) -> bool:
    """Whether the class of `error`, or one that it derives from, is named; so is a group if all that it holds are."""
    if any(_is_called(kind, name) for name in names for kind in type(error).__mro__):
        return True
    return isinstance(error, _GROUP) and all(is_permanent(each, names) for each in error.exceptions)


def _is_called(kind: type, name: str) -> bool:
    if "." not in name:
        return kind.__name__ == name
    return f"{kind.__module__}.{kind.__qualname__}" == name or _found(name) is kind


def _found(name: str) -> Any:
    """What a dotted name leads to from the innermost module of it that is loaded; None if that is nothing."""
    module, _, rest = name.rpartition(".")
    while module and module not in sys.modules:
        module, _, last = module.rpartition(".")
        rest = f"{last}.{rest}"
    try:
        return attrgetter(rest)(sys.modules[module]) if module else None
    except Exception:  # a module may make its names when they are asked for
        return None
