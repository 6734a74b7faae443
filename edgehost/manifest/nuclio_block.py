"""Finds Nuclio's inline configuration: a comment block in a Python file that stands for a function.yaml. Pure.

    # @nuclio.configure
    #
    # function.yaml:
    #   spec:
    #     handler: sensor:handler

The rules are Nuclio's own (pkg/processor/build/inlineparser): spaces around the marker do not count, the block ends at the first
line that does not start with `#`, and one space after each `#` is not part of the text.
"""

from __future__ import annotations

from itertools import takewhile

_MARKER = "#@nuclio.configure"


def has_block(source: str) -> bool:
    return _block_start(source.splitlines()) is not None


def block_text(source: str) -> str:
    """The YAML of the block, lines kept so that a line number still points into the Python file. Empty without a block."""
    lines = source.splitlines()
    start = _block_start(lines)
    if start is None:
        return ""
    inside = takewhile(lambda line: line.startswith("#"), lines[start:])
    return "\n" * start + "\n".join(line[1:].removeprefix(" ") for line in inside) + "\n"


def _block_start(lines: list[str]) -> int | None:
    """The index of the first line after the marker."""
    found = (index for index, line in enumerate(lines) if line.startswith("#") and line.replace(" ", "") == _MARKER)
    return next((index + 1 for index in found), None)
