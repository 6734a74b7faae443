"""Which board this is: the profile edgehost.toml names, else the one that fits what the machine says of itself."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from edgehost.config import Config
from edgehost.errors import ConfigError
from edgehost.manifest.toml_file import read_toml
from edgehost.profile.facts import Facts, machine, read_facts
from edgehost.profile.model import Match, Profile
from edgehost.profile.profile_toml import SHIPPED, load, names
from edgehost.profile.recognition import best


class Recognised(Struct, frozen=True):
    """A profile, why it is this one, and what the machine said."""

    profile: Profile
    why: str
    facts: Facts


def recognise(root: Path = Path("/"), architecture: str = "") -> Recognised:
    """The shipped profile that fits the machine at `root` best; a generic one where none knows the board.

    `architecture` is that of the running kernel unless a test plays another machine.
    """
    facts = read_facts(root, architecture or machine())
    name, why = best(_matches(), facts)
    return Recognised(_completed(load(name) if name else _unknown(facts.architecture), facts), why, facts)


def current(config: Config) -> Profile:
    """The profile in force. Raises ConfigError for a profile that a person named and must mend."""
    return chosen(config.profile).profile


def chosen(name_or_path: str, root: Path = Path("/"), architecture: str = "") -> Recognised:
    """The profile with that name or path and "edgehost.toml says so"; for an empty one what is recognised."""
    if not name_or_path:
        return recognise(root, architecture)
    facts = read_facts(root, architecture or machine())
    return Recognised(_completed(load(name_or_path), facts), "edgehost.toml says so", facts)


def _unknown(architecture: str) -> Profile:
    """The profile where not even the architecture has one."""
    return Profile("generic", f"{architecture} machine", Match(architecture=(architecture,)))


def _completed(profile: Profile, facts: Facts) -> Profile:
    """What a profile leaves to the machine: the cores of a generic board, and the workers they are good for."""
    cores = profile.cores or facts.cores
    return replace(profile, cores=cores, workers=profile.workers or max(1, cores - 1))


@lru_cache(maxsize=1)
def _matches() -> dict[str, Match]:
    """Every shipped profile's `[match]`, without reading what it extends."""
    tables = {name: read_toml(SHIPPED / f"{name}.toml", name, ConfigError) for name in names()}
    return {name: msgspec.convert(table.get("match", {}), Match) for name, table in tables.items()}
