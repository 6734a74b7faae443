"""What a configuration that was read again means for an agent that runs: a plan for its functions, and which settings wait for
a restart. Pure: nothing is read, started or stopped here.

    the folder in [agent] functions            its manifest             then the function
    is there, as before                        says the same name       is replaced if a file has changed, else kept
    is there, as before                        says another name        is removed; another is added
    is there, as before                        cannot be read           is kept as it runs
    is new                                     says a name that runs    replaces that one, if its own folder says so no more
    is new                                     says a new name          is added
    is new                                     cannot be read           is added as failed
    is gone                                                             is removed

A manifest that a function of this agent may have written cannot be read, as far as this table goes, unless it says what runs
already: no function gives itself a name, secrets, triggers or limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import fields, replace

from edgehost.config import Config
from edgehost.manifest.model import Manifest

_BY_NAME = ("brokers", "serial")
"""Tables whose new names nobody can use yet, so that they are in force at once."""
_AT_ONCE = ("source", "functions", "secrets", "log", "warnings")
_OF_NO_WEIGHT = ("version", "description", "source", "warnings")
"""What a manifest says of its function without letting it do anything."""


class Running(Struct, frozen=True):
    """One function of the agent, as far as a reload asks."""

    name: str
    folder: Path
    changed: bool = False
    """A file of it has, or it is in trouble and may be started now."""
    runs: bool = True
    """False: there is a name and a reason, and no version of it."""


class Found(Struct, frozen=True):
    """What one folder of the configuration holds now: a manifest, or why there is none."""

    folder: Path
    manifest: Manifest | None
    problem: str = ""


class Plan(Struct, frozen=True):
    """What to do, by functions' names; `broken` are folders whose function cannot run and did not before."""

    add: tuple[Manifest, ...] = ()
    replace: tuple[Manifest, ...] = ()
    remove: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    broken: tuple[Found, ...] = ()
    problems: tuple[str, ...] = ()


def withheld(found: Found, before: Manifest | None, writer: str) -> Found:
    """`found`, or the same without its manifest if it says anything else than `before`, which runs from that folder, and the
    function `writer` may write there ('': none may).
    """
    now = found.manifest
    if now is None or not writer or (changed := _changed(before, now)) == "":
        return found
    return Found(
        found.folder,
        None,
        f"{now.source}: {changed}, and the function {writer!r} may write there ([sandbox] write); "
        "restart the agent to use it as it is now, or give the function another folder to write to",
    )


def _changed(before: Manifest | None, now: Manifest) -> str:
    if before is None:
        return "is new"
    names = [field.name for field in fields(Manifest) if field.name not in _OF_NO_WEIGHT]
    changed = [name for name in names if getattr(before, name) != getattr(now, name)]
    return f"{', '.join(changed)} changed" if changed else ""


def distinct(found: Sequence[Found], running: Sequence[Running] = ()) -> list[Found]:
    """The same, but of several folders with one name only one has a manifest: that from which the name runs, if it says so still
    or cannot be read, else the first.
    """
    says = {each.folder: each.manifest.name if each.manifest is not None else None for each in found}
    owners = {
        each.name: each.folder
        for each in running
        if each.folder in says and (says[each.folder] == each.name or (each.runs and says[each.folder] is None))
    }
    told = []
    for each in found:
        owner = owners.setdefault(each.manifest.name, each.folder) if each.manifest is not None else each.folder
        if each.manifest is not None and owner != each.folder:
            taken = f"{each.manifest.source}: name {each.manifest.name!r} is taken by {owner}; give one of them another name"
            each = Found(each.folder, None, taken)
        told.append(each)
    return told


def plan(running: Sequence[Running], found: Sequence[Found]) -> Plan:
    """What makes `running` into `found` (of `distinct` names), by the table above."""
    here = {each.name: each for each in running}
    sound = {each.manifest.name: each.manifest for each in found if each.manifest is not None}
    unread = {each.folder: each.problem for each in found if each.manifest is None}
    same = [name for name in sound if name in here]
    renewed = [name for name in same if here[name].changed or here[name].folder != sound[name].folder]
    spared = {each.name: each for each in running if each.name not in sound and each.folder in unread}
    well = {each.folder for each in spared.values() if each.runs}
    return Plan(
        add=tuple(manifest for name, manifest in sound.items() if name not in here),
        replace=tuple(sound[name] for name in renewed),
        remove=tuple(name for name in here if name not in sound and name not in spared),
        keep=(*(name for name in same if name not in renewed), *spared),
        broken=tuple(each for each in found if each.folder in unread and each.folder not in well),
        problems=tuple(unread.values()),
    )


def merged(old: Config, new: Config) -> tuple[Config, list[str]]:
    """The configuration in force after a reload, and the keys whose change waits for a restart.

    What connections, listeners and chips were made with stays as it is until then: half an agent with other settings is worse
    than one that says what it waits for.
    """
    named = {table: {**getattr(new, table), **getattr(old, table)} for table in _BY_NAME}
    force = replace(old, **{key: getattr(new, key) for key in _AT_ONCE}, **named)
    return force, [place for field in fields(Config) for place in _waiting(field.name, old, new)]


def _waiting(key: str, old: Config, new: Config) -> list[str]:
    before, now = getattr(old, key), getattr(new, key)
    if key in _AT_ONCE or before == now:
        return []
    if key in _BY_NAME:
        return [f"[{key}.{name}]" for name in before if before[name] != now.get(name)]
    return [f"[{key}]" if isinstance(before, (Struct, dict)) else f"[agent] {key}"]
