"""Reads a profile: a file of device_profiles by its name, or a person's own by its path, with what it extends under it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgehost.errors import ConfigError
from edgehost.manifest.conversion import to_struct
from edgehost.manifest.place import toml_place
from edgehost.manifest.problem import KeyPath, Mistake, did_you_mean, not_allowed, show
from edgehost.manifest.toml_file import read_toml
from edgehost.profile.model import Profile

SHIPPED = Path(__file__).parents[1] / "device_profiles"
PARTS = SHIPPED / "parts"
"""What boards share, and long tables of pins; no board by itself."""

Table = Mapping[str, Any]


def names() -> list[str]:
    """The profiles edgehost comes with."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(name_or_path: str | Path) -> Profile:
    """The profile with a shipped name (`raspberry-pi-4b`), or the one in a file (a path with a `/`, or that ends in `.toml`).

    Raises ConfigError: one line with file, key, value and what is allowed.
    """
    text = str(name_or_path)
    if "/" in text or text.endswith(".toml"):
        return _profile(Path(name_or_path), text)
    if text not in names():
        raise ConfigError(f"profile {show(text)} is not known; {did_you_mean(text, names())}, or give the path of a file")
    return _profile(SHIPPED / f"{text}.toml", f"{text}.toml")


def _profile(path: Path, label: str) -> Profile:
    layers = _layers(path, label)
    try:
        if "name" in layers[0][1]:
            raise Mistake(("name",), "no such key; a profile has the name of its file")
        return to_struct({**_merged(layers), "name": path.stem}, Profile)
    except Mistake as mistake:
        place = toml_place(_origin(layers, mistake.path))
        raise ConfigError(f"{place(mistake.path)}: {mistake.text}") from None


def _layers(path: Path, label: str) -> list[tuple[str, Table]]:
    """Each file's label and table, the profile itself first and what it extends after it."""
    table = read_toml(path, label, ConfigError)
    base = table.pop("extends", None)
    if base is None:
        return [(label, table)]
    files = {file.stem: file for folder in (SHIPPED, PARTS) for file in folder.glob("*.toml") if file != path}
    if not isinstance(base, str):
        raise ConfigError(f"{toml_place(label)(('extends',))}: {not_allowed((), base, 'the name of a profile').text}")
    if base not in files:
        raise ConfigError(f"{toml_place(label)(('extends',))}: {show(base)} is no profile; {did_you_mean(base, files)}")
    return [(label, table), *_layers(files[base], f"{base}.toml")]


def _merged(layers: list[tuple[str, Table]]) -> Table:
    merged: Table = {}
    for _, table in reversed(layers):
        merged = _laid_over(merged, table)
    return merged


def _laid_over(under: Table, over: Table) -> Table:
    """Tables join key by key; of everything else the upper stays alone."""
    joined = {
        key: _laid_over(under[key], value) if isinstance(value, Mapping) and isinstance(under.get(key), Mapping) else value
        for key, value in over.items()
    }
    return {**under, **joined}


def _origin(layers: list[tuple[str, Table]], path: KeyPath) -> str:
    """The label of the file that wrote what stands at `path`: the uppermost that has most of the way to it."""

    def depth(table: Any) -> int:
        steps = 0
        for step in path:
            if not isinstance(table, Mapping) or step not in table:
                break
            table, steps = table[step], steps + 1
        return steps

    return max(layers, key=lambda layer: depth(layer[1]))[0]
