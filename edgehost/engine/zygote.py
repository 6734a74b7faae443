"""The zygote: a small single-threaded process, started fresh, that has imported what workers need and forks them on request.

It holds no secret, no descriptor of the agent but its control socket, and no event loop. It watches its workers through pidfds;
when one ends, it ends what that worker left behind before it reaps it, and tells the agent. When the agent is gone it ends all.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any

from edgehost.engine import kernel, worker
from edgehost.engine.births import DESCRIPTORS_MAX, MESSAGE_MAX, Ended, Forked, decode_fork, encode
from edgehost.engine.confinement import confine
from edgehost.engine.spec import WorkerSpec


class Zygote:
    """Forks on request, watches, reaps."""

    def __init__(self, control: socket.socket, load: worker.Load) -> None:
        self._control = control
        self._load = load
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._workers: dict[int, int] = {}  # pidfd -> pid

    def run(self) -> None:
        """Serve until the agent closes the control socket; then end every worker and return."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor != self._control.fileno():
                    self._reap(descriptor)
                elif not self._request():
                    kernel.end_orphans(set())
                    return

    def _request(self) -> bool:
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._control, MESSAGE_MAX, DESCRIPTORS_MAX)
        except ConnectionError:
            return False
        if not data:
            return False
        fork = decode_fork(data)
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(Forked(fork.ticket, 0, f"fork failed: {error.strerror}"))
        else:
            if pid == 0:
                self._become_worker(fork.spec, descriptors)
            pidfd = os.pidfd_open(pid)
            self._workers[pidfd] = pid
            self._poll.register(pidfd, select.POLLIN)
            self._tell(Forked(fork.ticket, pid), pidfd)
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _become_worker(self, spec: WorkerSpec, descriptors: list[int]) -> None:
        """In the child: never returns."""
        status = 1
        try:
            zygote = os.getppid()
            self._control.close()
            for pidfd in self._workers:
                os.close(pidfd)
            channel, inbound, outbound, output, *secrets = descriptors
            load = self._load
            try:
                confine(spec, output, zygote)
            except Exception as error:
                load = _refusal(error)
            kernel.accept_barriers()
            sock = socket.socket(fileno=channel)
            status = worker.main(spec, sock, inbound, outbound, secrets, load)
        except BaseException as error:
            os.write(2, f"worker of {spec.function} could not begin: {type(error).__name__}: {error}\n".encode())
        finally:
            # Not sys.exit: nothing of the zygote may run here, and some native libraries crash in their own exit handlers.
            os._exit(status & 0xFF)

    def _reap(self, pidfd: int) -> None:
        pid = self._workers.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        # The group first, while the unreaped leader still keeps its number from being given to somebody else.
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        _, status = os.waitpid(pid, 0)
        left = kernel.end_orphans(set(self._workers.values()))
        self._tell(Ended(pid, status, left))

    def _tell(self, message: Forked | Ended, *descriptors: int) -> None:
        try:
            socket.send_fds(self._control, [encode(message)], list(descriptors))
        except ConnectionError:
            pass  # the agent is gone; the next poll says so


def _refusal(error: Exception) -> worker.Load:
    """What a worker that could not be confined loads in place of its function: nothing, so that it only says why and ends."""

    def load(_spec: WorkerSpec, _link: Any) -> Any:
        raise error

    return load


def _loader(runtimes: dict[str, str]) -> worker.Load:
    """Gives `load(spec, link)`, which finds the runtime's class by the name the agent resolved from its entry point."""

    def load(spec: WorkerSpec, link: Any) -> Any:
        module, _, name = runtimes[spec.runtime].partition(":")
        return getattr(importlib.import_module(module), name).load(spec, link)

    return load


def main(control: int, runtimes: dict[str, str], preload: list[str]) -> None:
    """Entry of the zygote process. `runtimes` maps a runtime's kind to `module:Class`; `preload` are modules to import first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the agent's terminal: the agent drains its workers itself
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    kernel.become_subreaper()
    kernel.keep_freed_memory()
    kernel.prctl(kernel.PR_SET_NAME, b"edgehost-zygote")
    for target in runtimes.values():
        importlib.import_module(target.partition(":")[0])
    for module in preload:
        try:
            importlib.import_module(module)
        except ImportError as error:
            # The worker that needs it will say so in its own words, with the function's name.
            sys.stderr.write(f"zygote: cannot preload {module!r}: {error}\n")
    gc.collect()
    gc.freeze()  # what was imported stays untouched by the collector, so its pages stay shared
    Zygote(socket.socket(fileno=control), _loader(runtimes)).run()
    os._exit(0)
