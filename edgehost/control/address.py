"""Where the agent's local control socket is: one rule for the agent, which makes it, one for the command line, which looks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_FILE = "agent.sock"
_SYSTEM = Path("/run/edgehost") / _FILE


def agent_address(configured: Path | None, environ: Mapping[str, str], uid: int) -> Path:
    """Where an agent listens: as configured, else in systemd's runtime directory, the user's, or (root) /run/edgehost.

    A user without a runtime directory of his own (a container, ssh without a login session) gets a private folder below /tmp:
    only root can make one in /run.
    """
    if configured is not None:
        return configured
    if environ.get("RUNTIME_DIRECTORY"):
        # systemd.exec(5): several runtime directories are separated by colons; ours is the first.
        return Path(environ["RUNTIME_DIRECTORY"].split(":")[0]) / _FILE
    return _user_address(environ, uid)


def client_addresses(given: Path | None, environ: Mapping[str, str], uid: int) -> list[Path]:
    """Where the command line looks, first match first: as given, $EDGEHOST_SOCKET, the user's own agent, the machine's."""
    if given is not None:
        return [given]
    if environ.get("EDGEHOST_SOCKET"):
        return [Path(environ["EDGEHOST_SOCKET"])]
    return list(dict.fromkeys([_user_address(environ, uid), _SYSTEM]))


def default_address(configured: Path | None = None) -> Path:
    """`agent_address` for this very process."""
    return agent_address(configured, os.environ, os.getuid())


def _user_address(environ: Mapping[str, str], uid: int) -> Path:
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "edgehost" / _FILE
    return _SYSTEM if uid == 0 else Path(f"/tmp/edgehost-{uid}") / _FILE


def belongs_to_another(address: Path, uid: int) -> bool:
    """True if the folder is one that anybody may make (directly in /tmp) and somebody else did: no agent of ours is there."""
    folder = address.parent
    if folder.parent != Path("/tmp"):
        return False
    try:
        return folder.lstat().st_uid not in (uid, 0)
    except FileNotFoundError:
        return False
