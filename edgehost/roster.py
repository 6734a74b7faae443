"""Roster: the functions of this agent by name. Starts those of its folders, changes them while they run, leads calls to them.

Must not know where the list of folders comes from, or who calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgehost.control.protocol import FunctionStatus, Reloaded
from edgehost.deployment import Deployment
from edgehost.engine.nursery import breed_of
from edgehost.engine.sandbox import may_replace
from edgehost.errors import ControlError, EdgehostError
from edgehost.event import Event, Response, failure
from edgehost.hosts import Surroundings
from edgehost.manifest import read_manifest
from edgehost.manifest.model import Manifest
from edgehost.reload import Found, Plan, Running, distinct, plan, withheld
from edgehost.service.health import Health
from edgehost.watch import Snapshot, changes, snapshot

log = logging.getLogger("edgehost.agent")


class Roster:
    """Every deployment, also of a function that cannot be read: it has a name, a state and a reason."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._deployments: dict[str, Deployment] = {}
        self._seen: dict[str, Snapshot] = {}
        """The files of each function as they were when its version began to start."""
        self._manifests: dict[str, Manifest] = {}
        """What each function was last started with."""
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._one_change = asyncio.Lock()

    async def start(self, folders: Sequence[Path]) -> None:
        """Bring up the functions of these folders; returns when each runs, or is known not to."""
        await self._carry_out(plan((), distinct(_read(folders))))

    async def change(self, folders: Sequence[Path]) -> Reloaded:
        """Make what runs into what these folders hold now. Whatever cannot be done leaves its function as it was."""
        async with self._one_change:
            running = [self._running(each) for each in self._deployments.values()]
            todo = plan(running, distinct([self._checked(each) for each in _read(folders)], running))
            failed = await self._carry_out(todo)
            await self._try_again()
        return Reloaded(
            added=[manifest.name for manifest in todo.add],
            replaced=[manifest.name for manifest in todo.replace if manifest.name not in failed],
            removed=list(todo.remove),
            kept=list(todo.keep),
            problems=[*todo.problems, *failed.values()],
        )

    def _running(self, deployment: Deployment) -> Running:
        changed = deployment.troubled or snapshot(deployment.folder) != self._seen.get(deployment.name)
        return Running(deployment.name, deployment.folder, changed, deployment.runs)

    def _checked(self, found: Found) -> Found:
        """Without its manifest, if that is not for a running agent to take up."""
        if found.manifest is None:
            return found
        before = next((each for each in self._manifests.values() if each.folder == found.folder), None)
        return withheld(found, before, self._writer(found.manifest))

    def _writer(self, manifest: Manifest) -> str:
        """The function whose workers may write this manifest; '' if none may."""
        places = (manifest.folder, manifest.source)
        writers = (each.name for each in self._manifests.values() if may_replace(each.sandbox, each.folder, places))
        return next(writers, "")

    async def _carry_out(self, todo: Plan) -> dict[str, str]:
        """Gives what went wrong, by function. What is removed goes first: another may want the port or the pin it holds."""
        await asyncio.gather(*(self._remove(name) for name in todo.remove))
        for manifest in todo.add:
            self._add(manifest.name, manifest.folder)
        renewed = {manifest.name for manifest in todo.replace}
        for found in todo.broken:
            self._place_for(found.folder, renewed).trouble(found.problem)
        for manifest in todo.add:
            self._around.nursery.zygote(breed_of(manifest))  # all zygotes import at once, while the rest is built
        names = [manifest.name for manifest in (*todo.add, *todo.replace)]
        starts = [self._start(manifest) for manifest in todo.add]
        replaces = [self._replace(self._deployments[manifest.name], manifest) for manifest in todo.replace]
        problems = await asyncio.gather(*starts, *replaces)
        return {name: problem for name, problem in zip(names, problems, strict=True) if problem}

    def _add(self, name: str, folder: Path) -> Deployment:
        self._deployments[name] = Deployment(name, folder, self._around)
        return self._deployments[name]

    def _place_for(self, folder: Path, taken: set[str]) -> Deployment:
        """What stands for a folder whose function cannot run: what stood for it before, else a new name."""
        for name, deployment in self._deployments.items():
            if deployment.folder == folder and not deployment.runs and name not in taken:
                return deployment
        name = folder.resolve().name
        while name in self._deployments:
            name += "~"
        return self._add(name, folder)

    async def _start(self, manifest: Manifest) -> str:
        """Why the function does not run; '' if it does."""
        deployment = self._deployments[manifest.name]
        self._seen[manifest.name] = snapshot(manifest.folder)
        self._manifests[manifest.name] = manifest
        if self._writer(manifest) == manifest.name:
            log.warning("%s: may write its own manifest ([sandbox] write), which counts at the agent's next start", manifest.name)
        await deployment.start(manifest)
        health = deployment.health()
        return f"{manifest.name}: {health.reason}" if health.state == "failed" else ""

    async def _replace(self, deployment: Deployment, manifest: Manifest) -> str:
        """Put a new version in place. Why that could not be, '' if it is; the version before then goes on."""
        seen = snapshot(manifest.folder)
        try:
            await deployment.replace(manifest)
        except EdgehostError as error:
            log.error("%s: not reloaded, the version before goes on: %s", deployment.name, error)
            return f"{deployment.name}: {error}; the version before goes on"
        deployment.folder = manifest.folder
        self._seen[deployment.name] = seen
        self._manifests[deployment.name] = manifest
        return ""

    async def _remove(self, name: str) -> None:
        deployment = self._deployments[name]
        if name in self._watchers:
            self._watchers.pop(name).cancel()
        await deployment.stop()
        del self._deployments[name]
        self._seen.pop(name, None)
        self._manifests.pop(name, None)
        log.info("%s: removed", name)

    def watch(self) -> None:
        """From now on, replace a function when one of its files changes."""
        for name, deployment in self._deployments.items():
            if name not in self._watchers:
                self._watchers[name] = asyncio.create_task(self._watch(deployment))

    async def _watch(self, deployment: Deployment) -> None:
        async for _ in changes(deployment.folder):
            found = self._checked(_found(deployment.folder, deployment.name))
            if found.manifest is None:
                log.error("%s: not reloaded, the version before goes on: %s", deployment.name, found.problem)
                continue
            async with self._one_change:
                await self._replace(deployment, found.manifest)
                await self._try_again()

    async def _try_again(self) -> None:
        """What kept a trigger from starting may be gone with what has just changed."""
        await asyncio.gather(*(deployment.ingress.try_again() for deployment in self._deployments.values()))

    def stops(self) -> list[Callable[[], Any]]:
        """What ends them, one call each. Watching ends now."""
        for watcher in self._watchers.values():
            watcher.cancel()
        return [deployment.stop for deployment in self._deployments.values()]

    def call(self, name: str, event: Event) -> asyncio.Future[Response]:
        """Submit an event to a function by name; the failure `not_ready` if there is none."""
        deployment = self._deployments.get(name)
        return self._nobody(name) if deployment is None else deployment.submit(event)

    def deliver(self, name: str, event: Event) -> asyncio.Future[Response]:
        """As `call`, for an event nobody waits for: the function's retries and outputs apply."""
        deployment = self._deployments.get(name)
        return self._nobody(name) if deployment is None else deployment.deliver(event)

    def _nobody(self, name: str) -> asyncio.Future[Response]:
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        answer.set_result(failure("not_ready", self._unknown(name)))
        return answer

    def _unknown(self, name: str) -> str:
        return f"{name!r} is not a function here; there are: {', '.join(sorted(self._deployments)) or 'none'}"

    def refusal(self, function: str, output: str) -> str:
        """As Receivers of edgehost/delivery/dead_letters.py: why nothing can go back to a function, or to its output."""
        deployment = self._deployments.get(function)
        if deployment is None:
            return self._unknown(function)
        return deployment.refusal(output) if output else ""

    def key_of(self, function: str, trigger: str) -> Callable[[Event], str | None] | None:
        """What the trigger's `dedupe` knows an event by; None without it."""
        deployment = self._deployments.get(function)
        return deployment.ingress.key_of(trigger) if deployment is not None else None

    async def recover(self, function: str, trigger: str) -> None:
        """Events of this trigger have been put on disk. Of a function that has gone meanwhile they wait for its return."""
        deployment = self._deployments.get(function)
        if deployment is not None:
            await deployment.ingress.recover(trigger)

    async def invoke(self, name: str, event: Event) -> Response:
        """As `call`, for who asked for the function by its name. Raises ControlError if there is none."""
        if name not in self._deployments:
            raise ControlError(self._unknown(name))
        return await self._deployments[name].submit(event)

    def statuses(self) -> list[FunctionStatus]:
        """How every function is, in the order of their names."""
        return [self._deployments[name].status() for name in sorted(self._deployments)]

    def healths(self) -> list[Health]:
        """The same in brief, for who asks often."""
        return [self._deployments[name].health() for name in sorted(self._deployments)]


def _read(folders: Sequence[Path]) -> list[Found]:
    return [_found(folder) for folder in dict.fromkeys(folders)]


def _found(folder: Path, name: str | None = None) -> Found:
    try:
        return Found(folder, read_manifest(folder, name=name))
    except EdgehostError as error:
        return Found(folder, None, str(error))
