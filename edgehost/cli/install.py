"""`sudo edgehost install`: makes edgehost a service of this system; a second run changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgehost.config import Config
from edgehost.profile import Profile, current, load
from edgehost.service.files import CONFIG, SECRETS, STATE, Owner, wanted
from edgehost.service.plan import FUNCTIONS, Step, to_install
from edgehost.service.system import carry_out, check_able, look, look_at_device, program_for

ROOT_HELP = "The root folder of another system, such as an image that is being built; nothing is started then."
PACKAGED_HELP = "For the scripts of a distribution's package: its own files are below /usr/lib."


def command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start the service when it is installed.")] = True,
    watchdog: Annotated[
        bool, typer.Option("--hardware-watchdog/--no-hardware-watchdog", help="Have systemd feed the board's watchdog.")
    ] = True,
    small_journal: Annotated[
        bool | None,
        typer.Option(
            "--small-journal/--no-small-journal", help="Limit the system's journal.", show_default="on boards with cards"
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="The board's profile.", show_default="the board is recognised")
    ] = None,
    root: Annotated[Path, typer.Option(metavar="DIR", exists=True, file_okay=False, help=ROOT_HELP)] = Path("/"),
    packaged: Annotated[bool, typer.Option("--packaged", hidden=True, help=PACKAGED_HELP)] = False,
) -> None:
    """Make edgehost a service of this system: user, unit, device rules, folders; then start it. Changes only what is missing."""
    root = root.resolve()
    owner: Owner = "package" if packaged else "person"
    if not dry_run:
        check_able(root, start)
    device = look_at_device(root, _profile(root, profile), watchdog, small_journal)
    files = wanted(owner, program_for(root), device)
    steps = to_install(files, look(root, files, owner), str(root), start)
    carry_out_all(steps, root, dry_run)
    if not dry_run:
        print(_where())


def _profile(root: Path, name: str | None) -> Profile | None:
    if name:
        return load(name)
    return current(Config()) if root == Path("/") else None


def carry_out_all(steps: Sequence[Step], root: Path, dry_run: bool) -> None:
    """Say each step and do it, or say it alone."""
    if not steps:
        print("already as it should be")
    for step in steps:
        print(f"{'would ' if dry_run else ''}{step}", flush=True)
        if not dry_run:
            carry_out(step, root)


def _where() -> str:
    return f"""
functions      {FUNCTIONS}
configuration  {CONFIG}
secrets        {SECRETS}
state          {STATE}
log            journalctl -u edgehost

Next: put a function's folder there, name it in [agent] functions, then: sudo systemctl reload edgehost
How it is: systemctl status edgehost, edgehost functions (as root, or once: sudo usermod -aG edgehost NAME)"""
