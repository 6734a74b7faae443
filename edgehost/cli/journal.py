"""`edgehost journal`: what waits on this device, where, how much, how old, and what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgehost.cli import terminal
from edgehost.control.client import Client, NoAgentError
from edgehost.control.stock import JournalStatus

ANSWER_S = 30.0


def command(
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="No agent: read this journal.db.")
    ] = None,
    socket: Annotated[Path | None, typer.Option(metavar="PATH", help="The agent's control socket.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what waits on disk: durable events, messages that cannot leave, dead letters; and what is written to the disk."""
    status = _ask(file, socket)
    if as_json:
        terminal.print_json(msgspec.structs.asdict(status))
        return
    from edgehost.cli.journal_view import view

    terminal.console().print(view(status))


def _ask(file: Path | None, socket: Path | None) -> JournalStatus:
    from edgehost.cli import journal_file

    if file is not None:
        return journal_file.status(file)
    try:
        with Client.connect(socket, ANSWER_S) as agent:
            return agent.journal()
    except NoAgentError as error:
        raise journal_file.without_agent(error) from error
