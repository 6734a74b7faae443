"""`sudo edgehost uninstall`: takes away what `edgehost install` put there; a second run changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgehost.cli.install import PACKAGED_HELP, ROOT_HELP, carry_out_all
from edgehost.service.files import CONFIG, STATE, Owner
from edgehost.service.plan import to_uninstall
from edgehost.service.system import check_able, look


def command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Remove configuration, secrets, functions, state and user too.")] = False,
    root: Annotated[Path, typer.Option(metavar="DIR", exists=True, file_okay=False, help=ROOT_HELP)] = Path("/"),
    packaged: Annotated[bool, typer.Option("--packaged", hidden=True, help=PACKAGED_HELP)] = False,
) -> None:
    """End the service and remove its files; configuration and state stay unless --purge is given."""
    root = root.resolve()
    owner: Owner = "package" if packaged else "person"
    if not dry_run:
        check_able(root)
    facts = look(root, (), owner)
    carry_out_all(to_uninstall(owner, facts, str(root), purge), root, dry_run)
    if not purge and not dry_run and (facts.folders or CONFIG in facts.content):
        print(f"kept: {CONFIG.parent} and {STATE}; remove them and user edgehost too with --purge")
