"""Finds which file of a bundle's folder is its manifest, and reads it.

In this order: function.toml; Nuclio's function.yaml or function.yml; a `# @nuclio.configure` comment block in a Python file; and
with none of them, a main.py or handler.py that defines `handler`, which needs no manifest at all.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgehost.errors import ManifestError
from edgehost.manifest.assemble import assemble
from edgehost.manifest.function_toml import read_function_toml
from edgehost.manifest.model import Manifest
from edgehost.manifest.nuclio_block import has_block
from edgehost.manifest.place import label, toml_place

_YAML_NAMES = ("function.yaml", "function.yml")
_BARE_NAMES = ("main.py", "handler.py")
_HANDLER = re.compile(r"^(?:async[ \t]+)?def[ \t]+handler[ \t]*\(", re.MULTILINE)


def read_manifest(folder: Path, *, name: str | None = None) -> Manifest:
    """The Manifest of the bundle in `folder`; `name` overrides the one it says.

    Raises ManifestError: one line that names the file, the key, the value and what is allowed.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: {'is not a folder' if folder.exists() else 'there is no such folder'}")
    toml = folder / "function.toml"
    if toml.exists():
        return read_function_toml(toml, name=name)
    yaml = next((folder / file for file in _YAML_NAMES if (folder / file).exists()), None)
    if yaml:
        from edgehost.manifest.nuclio import read_function_yaml  # an agent with function.toml alone never loads it

        return read_function_yaml(yaml, name=name)
    return _from_code(folder, name)


def _from_code(folder: Path, name: str | None) -> Manifest:
    sources = {path: _source(path) for path in sorted(folder.glob("*.py"))}
    configured = [path for path, text in sources.items() if has_block(text)]
    if len(configured) > 1:
        both = f"{configured[0].name} and {configured[1].name}"
        raise ManifestError(f"{folder}: {both} both hold a # @nuclio.configure block; keep one")
    if configured:
        from edgehost.manifest.nuclio import read_inline

        return read_inline(configured[0], sources[configured[0]], name=name)
    bare = next((folder / file for file in _BARE_NAMES if _HANDLER.search(sources.get(folder / file, ""))), None)
    if bare:
        return _bare(bare, name)
    raise ManifestError(
        f"{folder}: holds no function; looked for function.toml, {', '.join(_YAML_NAMES)}, a Python file with a "
        f"# @nuclio.configure block, and main.py or handler.py with a function named handler"
    )


def _source(path: Path) -> str:
    """A Python file's text, as far as a comment block or a `def` in it goes; empty when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _bare(source: Path, name: str | None) -> Manifest:
    """A function without a manifest: named after its folder, and answering HTTP, as Nuclio has it."""
    table = {"handler": f"{source.stem}:handler", "triggers": {"http": {"kind": "http"}}}
    return assemble(table, source.parent, source, toml_place(label(source)), name=name)
