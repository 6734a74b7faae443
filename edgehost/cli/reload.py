"""`edgehost reload`: has the running agent read its configuration again, waits until it has, and says what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgehost.cli import terminal
from edgehost.cli.exits import FAILED
from edgehost.control.client import Client
from edgehost.control.protocol import Reloaded


def command(
    socket: Annotated[Path | None, typer.Option(metavar="PATH", help="The agent's control socket.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Have the running agent read edgehost.toml and its functions again; what cannot be used leaves the old in place."""
    with Client.connect(socket) as client:
        done = client.reload()
    if as_json:
        terminal.print_json(done)
    else:
        print(in_words(done))
        for problem in done.problems:
            terminal.note(problem)
    if done.problems:
        raise typer.Exit(FAILED)


def in_words(done: Reloaded) -> str:
    """`replaced pump, rtd; kept 3; [http] waits for a restart of the agent`."""
    parts = [f"{verb} {', '.join(names)}" for verb in ("added", "replaced", "removed") if (names := getattr(done, verb))]
    parts += [f"kept {len(done.kept)}"] if done.kept else []
    parts += [f"{', '.join(done.restart)} waits for a restart of the agent"] if done.restart else []
    return "; ".join(parts) or "there are no functions"
