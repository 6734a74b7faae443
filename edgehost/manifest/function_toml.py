"""Reads function.toml, edgehost's own manifest format."""

from __future__ import annotations

from pathlib import Path

from edgehost.errors import ManifestError
from edgehost.manifest.assemble import assemble
from edgehost.manifest.model import Manifest
from edgehost.manifest.place import label, toml_place
from edgehost.manifest.toml_file import read_toml


def read_function_toml(source: Path, *, name: str | None = None) -> Manifest:
    """The Manifest a function.toml says. Raises ManifestError: one line with file, key, value and what is allowed."""
    table = read_toml(source, label(source), ManifestError)
    return assemble(table, source.parent, source, toml_place(label(source)), name=name)
