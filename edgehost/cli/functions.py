"""`edgehost functions`: how every function of the running agent is, once or again and again, as a table or as JSON."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from edgehost.cli import terminal
from edgehost.control.client import Client, NoAgentError
from edgehost.control.protocol import FunctionStatus, Pong

EVERY_S = 1.0


def command(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second, until Ctrl-C.")] = False,
    socket: Annotated[Path | None, typer.Option(metavar="PATH", help="The agent's control socket.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object (with --watch: one a line).")] = False,
) -> None:
    """Show the running agent's functions: state, workers, counts, latencies, triggers and what is wrong."""
    if watch and not as_json:
        _watch(socket)
        return
    while True:
        _print_once(*_ask(socket), as_json)
        if not watch:
            return
        time.sleep(EVERY_S)


def _ask(socket: Path | None) -> tuple[Pong, list[FunctionStatus]]:
    with Client.connect(socket, timeout_s=10.0) as client:
        return client.ping(), client.functions()


def _print_once(agent: Pong, functions: list[FunctionStatus], as_json: bool) -> None:
    if as_json:
        about = {"version": agent.version, "pid": agent.pid, "started": agent.started, "troubles": agent.troubles}
        terminal.print_json({"agent": about, "functions": functions})
    else:
        from edgehost.cli.function_table import view

        terminal.console().print(view(agent, functions, time.time()))


def _watch(socket: Path | None) -> None:
    """Keep one picture up to date. An agent that goes away is waited for: it may be restarting."""
    from rich.console import RenderableType
    from rich.live import Live
    from rich.text import Text

    from edgehost.cli.function_table import view

    with Live(console=terminal.console(), auto_refresh=False) as live:
        while True:
            try:
                picture: RenderableType = view(*_ask(socket), time.time())
            except NoAgentError as error:
                picture = Text(str(error), "yellow")
            live.update(picture, refresh=True)
            time.sleep(EVERY_S)
