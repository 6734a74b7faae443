"""What a fresh worker does to itself before any code of the function runs: its place, its output, its limits, its environment.

Runs in the child of a fork, once. Knows the spec; must not know frames or handlers.
"""

from __future__ import annotations

import os
import resource
import signal

from edgehost.engine import kernel
from edgehost.engine.spec import WorkerSpec
from edgehost.sdk.environment import function_environment


def confine(spec: WorkerSpec, output: int, zygote: int) -> None:
    """Make the calling process a worker of `spec`. Raises OSError where the kernel refuses."""
    os.setsid()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote:
        os._exit(1)  # the zygote died before the line above could see it
    # What this worker leaves behind when it dies falls to the zygote in one step, however often it forked.
    kernel.become_subreaper()
    kernel.prctl(kernel.PR_SET_NAME, f"eh:{spec.function}"[:15].encode())
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _redirect(output)
    _limit(spec)
    os.environ.update(function_environment(spec))
    os.chdir(spec.folder)


def _redirect(output: int) -> None:
    """Standard input reads nothing; what children and native code write goes to the agent's log as lines."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(null)
    os.close(output)


def _limit(spec: WorkerSpec) -> None:
    limits = (
        (resource.RLIMIT_DATA, spec.memory_bytes),
        (resource.RLIMIT_NOFILE, spec.open_files),
        (resource.RLIMIT_NPROC, spec.processes),
        (resource.RLIMIT_CORE, 0),
    )
    for which, most in limits:
        if most is not None:
            _, hard = resource.getrlimit(which)
            resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard),) * 2)
    if spec.cpu_s is not None:
        # SIGXCPU at the soft limit says why the worker ended; the hard one would be a SIGKILL like any other.
        resource.setrlimit(resource.RLIMIT_CPU, (spec.cpu_s, spec.cpu_s + 1))
    if spec.niceness is not None:
        os.nice(spec.niceness)
