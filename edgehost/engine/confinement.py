"""What a fresh worker does to itself before any code of the function runs: its place, its output, its limits, its environment.

Runs in the child of a fork, once. Knows the spec; must not know frames, handlers, or how the agent chose the bounds.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

from edgehost.engine import kernel, landlock
from edgehost.engine.spec import WorkerSpec
from edgehost.errors import StartError
from edgehost.sdk.environment import function_environment

_CAPABILITIES = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 10, 13))
"""What a worker of root's keeps, capabilities(7): over files (CHOWN, DAC_OVERRIDE, FOWNER, FSETID), KILL, SETGID, SETUID, and
NET_BIND_SERVICE, NET_RAW. Others see through the sandbox: with PERFMON one reads every process's environment.
"""


def confine(spec: WorkerSpec, output: int, zygote: int) -> None:
    """Make the calling process a worker of `spec`. Raises OSError where the kernel refuses, StartError if it refuses a limit."""
    bounds = spec.bounds
    os.setsid()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(1)  # the zygote died before the line above could see it
    if bounds.cgroup:
        _join(bounds.cgroup)
    # What this worker leaves behind when it dies falls to the zygote in one step, however often it forked.
    kernel.become_subreaper()
    kernel.prctl(kernel.PR_SET_NAME, f"eh:{spec.function}"[:15].encode())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _redirect(output)
    _limit(spec)
    if bounds.temp:
        os.environ["TMPDIR"] = bounds.temp
        if "tempfile" in sys.modules:
            sys.modules["tempfile"].tempdir = None  # type: ignore[attr-defined]  # the zygote may have asked for it already
    os.environ.update(function_environment(spec))
    os.chdir(spec.folder)
    if bounds.hidden:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if bounds.files is not None:
        kernel.keep_capabilities(_CAPABILITIES)
        landlock.restrict(bounds.files, bounds.ports)


def _join(cgroup: str) -> None:
    """Go into the cgroup (cgroups(7): `0` is the writer itself)."""
    procs = os.open(cgroup, os.O_WRONLY)
    try:
        os.write(procs, b"0")
    finally:
        os.close(procs)


def _redirect(output: int) -> None:
    """Standard input reads nothing; what children and native code write goes to the agent's log as lines."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(null)
    os.close(output)


def _limit(spec: WorkerSpec) -> None:
    limits = spec.limits
    ceilings = (
        ("memory", resource.RLIMIT_DATA, limits.memory_bytes, 0),
        ("open_files", resource.RLIMIT_NOFILE, limits.open_files, 0),
        ("processes", resource.RLIMIT_NPROC, spec.bounds.tasks, 0),
        ("temp", resource.RLIMIT_FSIZE, spec.bounds.file_bytes, 0),
        ("core", resource.RLIMIT_CORE, 0, 0),
        # SIGXCPU at the soft limit says why the worker ended; the hard one would be a SIGKILL like any other.
        ("cpu_s", resource.RLIMIT_CPU, limits.cpu_s, 1),
    )
    for limit, which, most, more in ceilings:
        if most is not None:
            _set_ceiling(limit, which, most, most + more)
    if limits.niceness is not None:
        _give_way(limits.niceness)


def _set_ceiling(limit: str, which: int, soft: int, hard: int) -> None:
    """Never above the agent's own hard limit, which no setting of a function may raise."""
    _, most = resource.getrlimit(which)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    try:
        resource.setrlimit(which, (soft, hard))
    except (OSError, ValueError, OverflowError) as error:
        raise StartError(f"limits.{limit}: {soft} cannot be set: {error}; use less") from None


def _give_way(niceness: int) -> None:
    try:
        os.nice(niceness)
    except PermissionError:
        raise StartError(
            f"limits.niceness: {niceness} is not the agent's to give: below 0 needs CAP_SYS_NICE; use 0 and up, "
            f"or give its service LimitNICE={niceness}"
        ) from None
