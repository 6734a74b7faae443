"""How a place in a file is named in a message: `function.toml [triggers.temp].qos`. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from edgehost.manifest.problem import KeyPath, quoted

Place = Callable[[KeyPath], str]
"""Names where a path of keys stands in one file."""


def label(path: Path) -> str:
    """A function's file as messages name it, with its folder, for an agent has many of them: `thermostat/function.toml`."""
    return f"{path.parent.resolve().name}/{path.name}"


def toml_place(file: str) -> Place:
    """Names places of a TOML file: tables in brackets, then the key, positions in a list as `topics[1]`."""

    def name(path: KeyPath) -> str:
        *tables, key = _names(path) or [""]
        table = f" [{'.'.join(tables)}]" if tables else ""
        return f"{file}{table}{'.' if tables and key else ' ' if key else ''}{key}"

    return name


def yaml_place(file: str) -> Place:
    """Names places of a YAML file by their dotted path: `function.yaml spec.triggers.web.numWorkers`."""

    def name(path: KeyPath) -> str:
        return f"{file} {'.'.join(filter(None, _names(path)))}".rstrip()

    return name


def _names(path: KeyPath) -> list[str]:
    """The keys of a path, each with the list positions that follow it."""
    names: list[str] = []
    for step in path:
        if isinstance(step, int) and names:
            names[-1] += f"[{step}]"
        else:
            names.append(_key(str(step)) if step != "" else "")
    return names


def _key(key: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]+", key):
        return key
    return quoted(key)
