"""Which limits and which parts of the sandbox really hold on this machine, and by what: in words, for people. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from edgehost.engine.excess import size_in_words
from edgehost.engine.landlock import DEVICE_ABI, NETWORK_ABI, SCOPE_ABI
from edgehost.manifest.model import Limits, Sandbox

WATCHED = "watched"
"""Read four times a second; the worker is killed when it is over."""


def limits(limits: Limits, controllers: Collection[str]) -> list[str]:
    """One entry for each limit of the manifest: `memory 64 MiB (cgroup)`. `controllers` are those of the workers' cgroups."""
    return list(_limits(limits, controllers))


def _limits(limits: Limits, controllers: Collection[str]) -> Iterator[str]:
    if limits.memory_bytes is not None:
        yield f"memory {size_in_words(limits.memory_bytes)} ({_by('memory', controllers, WATCHED)})"
    if limits.cpu is not None:
        yield f"cpu {limits.cpu:g} ({_by('cpu', controllers, 'not enforced: no cgroup of its own')})"
    if limits.processes is not None:
        yield f"processes {limits.processes} ({_by('pids', controllers, WATCHED)})"
    if limits.temp_bytes is not None:
        yield f"temp {size_in_words(limits.temp_bytes)} ({WATCHED})"
    if limits.open_files is not None:
        yield f"open_files {limits.open_files} (rlimit)"
    if limits.cpu_s is not None:
        yield f"cpu_s {limits.cpu_s} (rlimit)"
    if limits.niceness is not None:
        yield f"niceness {limits.niceness}"


def _by(controller: str, controllers: Collection[str], otherwise: str) -> str:
    return "cgroup" if controller in controllers else otherwise


def sandbox(sandbox: Sandbox, abi: int) -> str:
    """`Landlock 7: files, devices, signals; network all`. `abi` is the kernel's Landlock version, 0 without."""
    if not sandbox.enabled:
        return "off by the manifest"
    if not abi:
        return "not enforced: this kernel has no Landlock"
    return f"Landlock {abi}: {', '.join(held(abi))}; network {_network(sandbox, abi)}"


def held(abi: int) -> list[str]:
    """What a Landlock of this version keeps functions from."""
    return ["files", *(["devices"] if abi >= DEVICE_ABI else []), *(["signals"] if abi >= SCOPE_ABI else [])]


def _network(sandbox: Sandbox, abi: int) -> str:
    if sandbox.network == "all":
        return "all"
    allowed = "no TCP" if sandbox.network == "none" else f"TCP {', '.join(map(str, sandbox.network))}"
    return allowed if abi >= NETWORK_ABI else f"{allowed} (not enforced: needs Landlock {NETWORK_ABI})"
