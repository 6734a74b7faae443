"""Which files a function's workers may see: the rules for Landlock, from the manifest's `[sandbox]` and this machine's folders.

    system and Python      read, run        /proc /sys      read
    its own folder         read, run        its temp        everything
    `read`                 read, run        `write`         everything but device nodes
    plain devices          read, write, ioctl, as `devices`

A rule can only open, and opens all that lies below. So a folder with a private file of the agent's in it (a secret, a password)
is never opened itself: its entries are, without that file. Where the agent may not list such a folder, nothing in it is opened.
Knows paths; must not know processes or what enforces the rules.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgehost.engine import landlock
from edgehost.manifest.model import Sandbox

Rule = tuple[str, int]
"""A path, and the rights over it and all below."""

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/opt")
KERNEL = ("/proc", "/sys", "/run/systemd/resolve", "/run/resolvconf")
"""Of other processes /proc shows a confined one no memory, environment or descriptors: those are ptrace(2)'s to allow."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def system_rules(python: Iterable[Path], private: frozenset[Path]) -> tuple[Rule, ...]:
    """What every worker may see: the same for as long as the agent runs."""
    wanted = [(path, landlock.RUN) for path in (*map(Path, SYSTEM), *python)]
    wanted += [(Path(path), landlock.READ) for path in KERNEL]
    wanted += [(Path(path), landlock.DEVICE) for path in DEVICES]
    return _sorted(_outermost(_opened(wanted, private)))


def own_rules(sandbox: Sandbox, folder: Path, temp: Path, devices: Iterable[str], private: frozenset[Path]) -> tuple[Rule, ...]:
    """What the workers of one function may see beside that, as far as it is there now; `devices` are those of its runtime."""
    wanted = [(folder, landlock.RUN), (temp, landlock.WRITE)]
    wanted += [(folder / path, landlock.RUN) for path in sandbox.read]
    wanted += [(folder / path, landlock.WRITE) for path in sandbox.write]
    wanted += [(path, landlock.DEVICE) for pattern in (*sandbox.devices, *devices) for path in matches(pattern)]
    return _sorted(_opened(wanted, private))


def missing(sandbox: Sandbox, folder: Path) -> list[str]:
    """What `[sandbox]` names and is not there: no rule can open it."""
    absent = [path for path in (*sandbox.read, *sandbox.write) if not _is_there(folder / path)]
    return absent + [pattern for pattern in sandbox.devices if not matches(pattern)]


def may_replace(sandbox: Sandbox, folder: Path, places: Iterable[Path]) -> bool:
    """Whether `write` lets the workers of the function in `folder` write one of these files or folders, or put another there."""
    written = {real_path(folder / path) for path in sandbox.write} if sandbox.enabled else set()
    reached = {path for place in places for path in (place, real_path(place))}
    return any(not written.isdisjoint((path, *path.parents)) for path in reached)


def matches(pattern: str) -> list[Path]:
    """The files below /dev that a name or a pattern stands for now."""
    return list(Path("/dev").glob(pattern.removeprefix("/dev/")))


def carve(path: Path, private: frozenset[Path]) -> Iterator[Path]:
    """`path`, or what it holds without `private` if that lies below it. `path` is real."""
    if path in private or not private.isdisjoint(path.parents) or not _is_there(path):
        return
    if not _leads_to(path, private):
        yield path
        return
    for entry in _entries(path):
        real = real_path(entry)
        if real == entry:
            yield from carve(entry, private)
        elif not _leads_to(real, private):
            yield from carve(real, private)  # where a link leads; one that leads back to something private opens nothing


def real_path(path: str | Path) -> Path:
    """Where it leads. Not Path.resolve(), which raises RuntimeError for links in a circle before Python 3.13."""
    return Path(os.path.realpath(path))


def _is_there(path: Path) -> bool:
    """As far as the agent can see. Not Path.exists(), which raises where a folder on the way is closed."""
    return os.access(path, os.F_OK)


def _entries(folder: Path) -> list[Path]:
    """What a folder holds; nothing where we may go in but not look (mode 0710): what cannot be carved stays closed."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _leads_to(path: Path, private: frozenset[Path]) -> bool:
    return any(path in one.parents for one in private)


def _opened(wanted: Iterable[tuple[Path, int]], private: frozenset[Path]) -> set[tuple[Path, int]]:
    return {(path, rights) for wish, rights in wanted for path in carve(real_path(wish), private)}


def _outermost(found: set[tuple[Path, int]]) -> set[tuple[Path, int]]:
    """Without the rules that one further out gives already."""
    return {(path, rights) for path, rights in found if not any((parent, rights) in found for parent in path.parents)}


def _sorted(found: set[tuple[Path, int]]) -> tuple[Rule, ...]:
    return tuple(sorted((str(path), rights) for path, rights in found))


def python_places() -> tuple[Path, ...]:
    """Where this interpreter and its packages lie. Not the working folder `python -m` puts on the path: anything may be there."""
    own = real_path(Path(__file__).parents[2])
    here = Path.cwd()
    on_path = {real_path(entry) for entry in sys.path if entry} - ({here} - {own})
    libraries = {Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry}
    return (Path(sys.prefix), Path(sys.base_prefix), own, *on_path, *libraries)
