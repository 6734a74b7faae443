"""How things are printed: a rich console for tables, plain where standard output is no terminal, and JSON for machines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPED_COLUMNS = 1000
"""Wide enough that no table is folded on its way into a file or another program."""


def console() -> Console:
    """A rich console on standard output that neither colours nor folds what is piped away."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_COLUMNS)


def print_json(value: object) -> None:
    """One value as one line of JSON."""
    print(msgspec.json.encode(value).decode(), flush=True)


def note(message: str) -> None:
    """Something a person should know that is not the answer: on standard error, so that the answer can be piped."""
    print(f"edgehost: {message}", file=sys.stderr)


def plain_table(*titles: str) -> Table:
    """A table without lines, with these columns, none of them folded."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table


def duration(seconds: float) -> str:
    """Two units at most: `3 d 4 h`, `12 min 5 s`."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def harmless(text: str) -> str:
    """Text of others without what would move the cursor or change the terminal."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
