"""Walks a Nuclio manifest while function.toml's tables are filled from it: what was read leaves the section, what is left is
warned about by name. Remembers for every key where it came from, so that a later mistake is named in the user's own file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgehost.manifest.place import Place, yaml_place
from edgehost.manifest.problem import KeyPath, Mistake, not_allowed


class Reading:
    """What has been read so far: `table` in function.toml's shape, and the warnings."""

    def __init__(self, file: str) -> None:
        self.table: dict[Any, Any] = {}
        self.warnings: list[str] = []
        self._origins: dict[KeyPath, KeyPath] = {}
        self._yaml_place = yaml_place(file)

    def put(self, key: KeyPath, value: Any, origin: KeyPath) -> None:
        """Set `key` of function.toml, which `origin` in the Nuclio manifest says."""
        table: dict[str | int, Any] = self.table
        for step in key[:-1]:
            table = table.setdefault(step, {})
        table[key[-1]] = value
        self.know(key, origin)

    def know(self, key: KeyPath, origin: KeyPath) -> None:
        """Remember that `key` of function.toml comes from `origin`, and all below it likewise."""
        self._origins[key] = origin

    def warn(self, origin: KeyPath, text: str) -> None:
        self.warnings.append(f"{self._yaml_place(origin)}: {text}")

    @property
    def place(self) -> Place:
        """Names a place of `table` by where it came from."""
        return lambda path: self._yaml_place(self._origin(path))

    def yaml(self, path: KeyPath) -> str:
        return self._yaml_place(path)

    def _origin(self, path: KeyPath) -> KeyPath:
        known = next((path[:end] for end in range(len(path), 0, -1) if path[:end] in self._origins), None)
        return path if known is None else (*self._origins[known], *path[len(known) :])


class Section:
    """One mapping of the manifest. Keys are found whatever their case, as Go's decoder finds them."""

    def __init__(self, reading: Reading, values: Mapping[str, Any], path: KeyPath) -> None:
        self.reading = reading
        self.path = path
        self._values = dict(values)

    def take(self, key: str) -> tuple[Any, KeyPath]:
        """The value under `key`, None without one, and where it stands; it counts as read."""
        name = next((known for known in self._values if known.casefold() == key.casefold()), None)
        return (None, (*self.path, key)) if name is None else (self._values.pop(name), (*self.path, name))

    def ignore(self, *keys: str) -> None:
        """Count keys as read that say nothing edgehost would do otherwise."""
        for key in keys:
            self.take(key)

    def move(self, key: str, to: KeyPath, turn: Callable[[Any], Any] = lambda value: value) -> None:
        """Set `to` of function.toml from `key`. What `turn` refuses with a ValueError is a mistake at `key`."""
        value, origin = self.take(key)
        if value is None:
            return
        try:
            self.reading.put(to, turn(value), origin)
        except (ValueError, TypeError, AttributeError) as error:
            raise Mistake(origin, str(error)) from None

    def section(self, key: str) -> Section:
        """The mapping under `key`, empty without one."""
        value, origin = self.take(key)
        return Section(self.reading, _mapping(value, origin), origin)

    def sections(self) -> dict[str, Section]:
        """Every value as a mapping, by key; all count as read."""
        names = list(self._values)
        return {name: self.section(name) for name in names}

    def scalars(self) -> dict[str, Any]:
        """Every value as it stands, by key; all count as read."""
        values, self._values = self._values, {}
        return values

    def items(self, key: str) -> list[tuple[Any, KeyPath]]:
        """The entries of the list under `key`, each with its place."""
        value, origin = self.take(key)
        if value is not None and not isinstance(value, list):
            raise not_allowed(origin, value, "a list")
        return [(item, (*origin, index)) for index, item in enumerate(value or ())]

    def leave(self, reasons: Mapping[str, str], otherwise: str) -> None:
        """Warn by name about every key not read: with its reason, or `otherwise` where none is known."""
        known = {key.casefold(): reason for key, reason in reasons.items()}
        for key in self._values:
            self.reading.warn((*self.path, key), known.get(key.casefold(), otherwise))
        self._values.clear()


def _mapping(value: Any, origin: KeyPath) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise not_allowed(origin, value, "a mapping")
    return value or {}
