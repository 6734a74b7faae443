"""`edgehost profile`: which board this is and why, what edgehost knows of it, and which of its quirks hold here now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from edgehost.cli import terminal
from edgehost.profile import Recognised, load, names
from edgehost.profile.board import chosen
from edgehost.profile.here import Here, look

ROOT = Path("/")


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME|FILE", help="Show this one, not that of this machine.", show_default=False)
    ] = None,
    pins: Annotated[bool, typer.Option("--pins", help="Draw the headers, pin by pin.")] = False,
    list_all: Annotated[bool, typer.Option("--list", help="List the profiles edgehost comes with.")] = False,
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a profile of your own to start from.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Use the profile this edgehost.toml names.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the board this is: why it was recognised, its pins, ports and limits, and what is special about it."""
    if list_all:
        _list(as_json)
        return
    found = chosen(name or _configured(config), ROOT)
    if write is not None:
        _write(found, write)
        return
    here = None if name else look(found.profile, ROOT, os.uname().release)
    _show(found, here, pins, as_json)


def _configured(config: Path | None) -> str:
    if config is None:
        return ""
    from edgehost.config_toml import read_config

    return read_config(config).profile


def _show(found: Recognised, here: Here | None, pins: bool, as_json: bool) -> None:
    if as_json:
        board = {"profile": found.profile, "pins": found.profile.gpio.pins}
        machine = {"why": found.why, "facts": found.facts, "here": here} if here else {}
        terminal.print_json({**board, **machine})
        return
    from edgehost.cli import profile_view as view

    terminal.console().print(view.headers(found.profile) if pins else view.board(found, here))


def _list(as_json: bool) -> None:
    profiles = [load(name) for name in names()]
    if as_json:
        terminal.print_json({"profiles": [{"name": profile.name, "title": profile.title} for profile in profiles]})
    else:
        from edgehost.cli.profile_view import table

        terminal.console().print(table(profiles))


def _write(found: Recognised, file: Path) -> None:
    """A file that extends what was found and matches this machine. An existing one stays as it is."""
    from edgehost.profile.draft import draft

    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(draft(found))
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be written: {error.strerror}") from None
    terminal.note(f"wrote {file}; edit it, look at it with `edgehost profile {_as_path(file)}`, then name it in [agent] profile")


def _as_path(file: Path) -> str:
    return str(file) if "/" in str(file) or file.suffix == ".toml" else f"./{file}"
