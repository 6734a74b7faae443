"""`edgehost agent`, for the list of commands: the entry point sends the command itself to the agent without coming this way."""

from __future__ import annotations

import typer

SETTINGS = {
    "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    "add_help_option": False,
}


def command(context: typer.Context) -> None:
    """Run the agent as a service, as its edgehost.toml says (--config FILE)."""
    from edgehost.agent import main

    raise typer.Exit(main(context.args))
