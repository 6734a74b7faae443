"""How things are printed: a rich console for tables, plain where standard output is no terminal, and JSON for machines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

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
