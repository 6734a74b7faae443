"""`edgehost new`: a working function from a template, which is a folder beside this file; its `{{name}}` becomes the name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from edgehost.cli import terminal

TEMPLATES = Path(__file__).parent / "templates"
NAME = re.compile(r"[a-z0-9](?:[-a-z0-9_]{0,61}[a-z0-9])?", re.ASCII)
"""The names a manifest takes (edgehost/manifest/checks.py)."""


def templates() -> list[str]:
    """The names of the templates."""
    return sorted(folder.name for folder in TEMPLATES.iterdir() if folder.is_dir())


def function_name(value: str) -> str:
    """Refuse what no manifest takes, as a usage error."""
    if not NAME.fullmatch(value):
        raise typer.BadParameter(
            f"{value!r} is not a name; use 1 to 63 of a-z, 0-9, - and _, with a letter or digit first and last"
        )
    return value


def template_name(value: str) -> str:
    """Refuse what is no template, as a usage error."""
    if value not in templates():
        raise typer.BadParameter(f"{value!r} is not a template; use {', '.join(templates())}")
    return value


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", callback=function_name, help="The function's name, and its folder's.")],
    template: Annotated[
        str, typer.Option("--template", "-t", callback=template_name, help=f"One of {', '.join(templates())}.")
    ] = "http",
    into: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where to make the folder.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a working function from a template. Never overwrites anything."""
    folder = into / name
    try:
        files = create(TEMPLATES / template, folder, name)
    except FileExistsError as error:
        raise typer.BadParameter(f"{folder} is there already; choose another name, or another folder with --into") from error
    except OSError as error:
        raise typer.BadParameter(f"{folder} cannot be made: {error.strerror}; choose another folder with --into") from error
    if as_json:
        terminal.print_json({"name": name, "template": template, "folder": str(folder), "files": files})
    else:
        _say_what_next(folder, files)


def create(template: Path, folder: Path, name: str) -> list[str]:
    """Copy the template's files to a new folder. Gives their names; raises FileExistsError if the folder is there."""
    sources = sorted(path for path in template.iterdir() if path.is_file())
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    for source in sources:
        (folder / source.name).write_bytes(_filled(source.read_bytes(), name))
    return [source.name for source in sources]


def _filled(content: bytes, name: str) -> bytes:
    return content.replace(b"{{name}}", name.encode())


def _say_what_next(folder: Path, files: list[str]) -> None:
    print(f"{folder}: {', '.join(files)}")
    print("\nTry it:")
    print(f"  edgehost invoke --local {folder} --file {folder / 'event.json'}")
    print(f"  edgehost run {folder} --watch")
