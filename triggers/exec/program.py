"""Program: one run of a command, in a session and process group of its own, from its start until nothing of it is left.

    started         standard input reads nothing
    ended           its pidfd is readable: what it left in its group is killed, and all of it is waited for
    stopped         SIGTERM to the group, SIGKILL after the grace
    agent killed    the kernel kills it (PR_SET_PDEATHSIG), and its group (leash.py)
Must not know what it writes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from edgehost.children import inherited_environment
from edgehost.errors import TriggerError
from edgehost.triggers.exec.leash import Leash

_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
try:
    os.execv(sys.argv[2], sys.argv[3:])
except OSError as error:
    sys.stderr.write(f"cannot be run: {error.strerror}\\n")
os._exit(127)
"""
"""Runs between fork and exec, in an interpreter of its own: code of the agent there could find a lock of another thread held."""
_BURY_S = 5.0
_LOOK_S = 0.01


class Program:
    """One process, running. Raises TriggerError if there is no such program or folder, OSError if the system has no room."""

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str], stdout: int, stderr: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        folder = folder.absolute()
        environment = {**inherited_environment(), **env}
        path = _find(command[0], folder, environment.get("PATH", os.defpath))
        with ExitStack() as undo:  # a child that nobody knows of would run for ever
            self._leash = Leash()
            undo.callback(self._leash.cut)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), path, *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                pass_fds=(self._leash.held,),
            )
            self.pid = self._process.pid
            undo.callback(self._process.wait)
            undo.callback(self._signal, signal.SIGKILL)
            self._leash.put_on(self.pid)
            self._pidfd = os.pidfd_open(self.pid)
            undo.callback(os.close, self._pidfd)
            self._loop.add_reader(self._pidfd, self._end)
            undo.pop_all()

    def _end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set()

    async def ended(self) -> None:
        """Return when it runs no more; it is still to be buried."""
        await self._ended.wait()

    async def stop(self, grace_s: float) -> None:
        """End it, if it runs."""
        if not self._ended.is_set():
            self._signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._ended.wait(), grace_s)
            except asyncio.TimeoutError:
                self._signal(signal.SIGKILL)
                await self._ended.wait()

    async def bury(self) -> int:
        """After its end: kill what it left in its group, wait for all of it. Gives its wait status."""
        self._signal(signal.SIGKILL)
        self._leash.cut()
        status, deadline = 0, self._loop.time() + _BURY_S
        while (dead := self._next_dead()) is not None and self._loop.time() < deadline:
            pid, how = dead
            if pid == self.pid:
                status = how
                self._process.returncode = os.waitstatus_to_exitcode(how)
            elif pid == 0:
                await asyncio.sleep(_LOOK_S)
        return status

    def _next_dead(self) -> tuple[int, int] | None:
        """One of its group that is dead, with its wait status; process 0 if none is yet, None if none is left."""
        try:
            return os.waitpid(-self.pid, os.WNOHANG)
        except ChildProcessError:
            return None

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # all of it is dead, or runs as somebody else (setuid)


def _find(name: str, folder: Path, path: str) -> str:
    """The program's file, as a shell finds it. A name with a slash counts from the folder it runs in."""
    if not folder.is_dir():
        raise TriggerError(f"cwd: {folder} is not a folder; make it, or name another one")
    if "/" in name:
        file = folder / name
        if file.is_file() and os.access(file, os.X_OK):
            return str(file)
        what = "is not executable; chmod +x it" if file.is_file() else "is not there; install it or mend command"
        raise TriggerError(f"{file} {what}")
    found = shutil.which(name, path=path)
    if found is None:
        raise TriggerError(f"{name} is not a program in PATH ({path}); install it, or write its whole path")
    return found
