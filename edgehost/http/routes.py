"""Which handler a request path belongs to: a table of exact and prefix routes, and the decision. No I/O, no server.

    route      answers                          prefix taken off when the function asks for it
    /a/b       the path /a/b alone              /a/b
    /a/*       /a and everything below /a/      /a
    /*         everything                       (nothing)

The most particular route wins: an exact one before any prefix, a longer prefix before a shorter one.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from msgspec import Struct

from edgehost.errors import TriggerError

T = TypeVar("T")


class Route(Struct, frozen=True):
    """One parsed route. `path` has no trailing `/*`; `prefix` says whether it had one."""

    path: str
    prefix: bool

    def __str__(self) -> str:
        return f"{self.path}/*" if self.prefix else self.path


def parse_route(text: str) -> Route:
    """The Route that `text` spells; ValueError says what is wrong with it."""
    path, prefix = (text[:-2], True) if text.endswith("/*") else (text, False)
    if not text.startswith("/"):
        raise ValueError(f"route {text!r} must start with '/'")
    for character, advice in (("*", "a '*' may only stand at the end, as in '/files/*'"), ("?", "a route has no query")):
        if character in path:
            raise ValueError(f"route {text!r}: {advice}")
    if "{" in path or "}" in path:
        raise ValueError(f"route {text!r}: names in braces are not known; use '{path.split('{')[0]}*' and read event.path")
    return Route(path, prefix)


class RouteTable(Generic[T]):
    """Routes with their targets and their owners (a line for people, such as "function 'a', trigger 'web'")."""

    def __init__(self) -> None:
        self._exact: dict[str, tuple[T, str]] = {}
        self._prefix: dict[str, tuple[T, str]] = {}

    def add(self, route: Route, target: T, owner: str) -> None:
        """Claim `route`. TriggerError names both owners if another one has it; claiming twice for one owner is fine."""
        table = self._prefix if route.prefix else self._exact
        if (taken := table.get(route.path)) is not None and taken[1] != owner:
            raise TriggerError(f"route {route} of {owner} already belongs to {taken[1]}; give one of them its own `routes`")
        table[route.path] = (target, owner)

    def remove(self, owner: str) -> None:
        """Give up every route of `owner`."""
        for table in (self._exact, self._prefix):
            for path in [path for path, (_, holder) in table.items() if holder == owner]:
                del table[path]

    def find(self, path: str) -> tuple[T, str] | None:
        """The target for `path` and the prefix its route matched (the whole path for an exact route), None if there is none."""
        if (exact := self._exact.get(path)) is not None:
            return exact[0], path
        prefix = path
        while True:
            if (found := self._prefix.get(prefix)) is not None:
                return found[0], prefix
            if not prefix:
                return None
            prefix = prefix.rpartition("/")[0]

    def listing(self) -> list[tuple[str, Any]]:
        """Every claimed route as text with its owner, sorted; for people."""
        rows = [(path, owner) for path, (_, owner) in self._exact.items()]
        rows += [(f"{path}/*", owner) for path, (_, owner) in self._prefix.items()]
        return sorted(rows)
