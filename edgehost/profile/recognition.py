"""Which profile fits a machine best. Pure.

| what fits | rank |
| --- | --- |
| the n-th `compatible` string of the device tree | 1 + n: the first string is the most specific |
| DMI vendor and product | 100 |
| the device tree's model text | 200 |
| the architecture | 300: a generic profile |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from edgehost.profile.facts import Facts
from edgehost.profile.model import Match


def best(matches: Mapping[str, Match], facts: Facts) -> tuple[str, str]:
    """The name of the profile that fits best, empty where none does, and why. Of equals the first by name."""
    ranked = [(*found, name) for name, match in sorted(matches.items()) if (found := fit(match, facts))]
    rank, why, name = min(ranked, default=(_GENERIC, _by_architecture(facts), ""))
    if rank == _GENERIC:
        why = f"no profile knows {_called(facts)}; {why}"
    return name, why


_GENERIC = 300


def fit(match: Match, facts: Facts) -> tuple[int, str] | None:
    """The rank, where lower is more specific, and the reason in words; None when the profile does not fit at all."""
    for position, string in enumerate(facts.compatible):
        if _fits(string, match.compatible):
            return 1 + position, f"the device tree says {string}"
    if _fits(facts.dmi, match.dmi):
        return 100, f"the firmware says {facts.dmi}"
    if _fits(facts.model, match.model):
        return 200, f"the device tree's model is {facts.model!r}"
    if _fits(facts.architecture, match.architecture):
        return _GENERIC, _by_architecture(facts)
    return None


def _by_architecture(facts: Facts) -> str:
    return f"the architecture is {facts.architecture}"


def _fits(value: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _called(facts: Facts) -> str:
    board = facts.model or facts.dmi
    first = f" ({facts.compatible[0]})" if facts.compatible else ""
    return f"{board!r}{first}" if board else "this machine, which does not say what it is"
