"""Ingress: the ways by which events come into one function: triggers, what earlier ones have left on disk, other functions.

    a trigger starts            it listens, and what lies on disk for it goes on
    it cannot                   shown as failed; tried again by itself if a disk was in the way, else by `try_again`
    the manifest lacks it       its events on disk go on without it
    upgrade, same triggers      one assignment each leads them to the new version
    upgrade, other triggers     the old ones stop, and hand over what they have; then the new ones start

What is done to them follows one after the other. Must not know how a version starts or ends, or what a trigger listens to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from edgehost import plugin
from edgehost.backoff import Backoff
from edgehost.control.protocol import TriggerStatus
from edgehost.delivery.ending import Ending
from edgehost.delivery.inflow import Inflow, Inlet
from edgehost.delivery.tries import Delivery
from edgehost.errors import StateError
from edgehost.event import Event, Response
from edgehost.hosts import Surroundings, TriggerHost
from edgehost.manifest.model import TriggerSpec
from edgehost.version import Version, broken_off, in_words, stop_all

_ORPHANS_AT_ONCE = 16


class Ingress:
    """Of one function. `current()` is the version that is in place; None before the first."""

    def __init__(
        self, name: str, around: Surroundings, log: logging.LoggerAdapter[logging.Logger], current: Callable[[], Version | None]
    ) -> None:
        self._name = name
        self._around = around
        self._log = log
        self._current = current
        self._triggers: list[tuple[plugin.Trigger | None, TriggerHost, TriggerSpec]] = []
        self._chained: Delivery | None = None
        """The way of events that other functions send."""
        self._orphans: dict[str, tuple[Inflow, Delivery]] = {}
        """Events on disk of triggers that the manifest has no more."""
        self._recovered: set[str] = set()
        """Triggers that just start, and of which events were put on disk meanwhile."""
        self._later: asyncio.TimerHandle | None = None
        self._backoff = Backoff(2.0, 60.0)
        self._trying: asyncio.Task[None] | None = None
        self._one_change = asyncio.Lock()
        self._stopping = False

    async def start(self, version: Version) -> None:
        """Start every trigger of its manifest. One that cannot start is a state, not an exception."""
        async with self._one_change:
            await self._start_triggers(version)

    async def lead_to(self, version: Version, before: Version | None) -> None:
        """From now on events go to `version`, which has just taken the place of `before`."""
        if before is not None and before.manifest.triggers == version.manifest.triggers and self._triggers:
            for _, host, _ in self._triggers:
                host.lead_to(version)
            for delivery in (self._chained, *(delivery for _, delivery in self._orphans.values())):
                if delivery is not None:
                    self._led(version, delivery)
        else:
            async with self._one_change:
                await self._stop_triggers()
                await self._start_triggers(version)

    async def stop(self) -> None:
        """For ever: when it returns, nothing comes in any more, and what has come has been answered or lies on disk."""
        self._stopping = True
        if self._later is not None:
            self._later.cancel()
        await broken_off(self._trying)
        async with self._one_change:
            await self._stop_triggers()
        if self._chained is not None:
            self._chained.hurry()

    @property
    def statuses(self) -> list[TriggerStatus]:
        """Of every trigger, for people and machines."""
        return [TriggerStatus(spec.name, spec.kind, *host.shown, dict(host.counts)) for _, host, spec in self._triggers]

    async def _start_triggers(self, version: Version) -> None:
        for spec in version.manifest.triggers:
            await self._start_trigger(version, spec)
        await self._adopt_all(version)

    async def _adopt_all(self, version: Version) -> None:
        """What an earlier manifest, or an earlier run, has left of triggers that are no more."""
        journal = self._around.journal
        if journal.state == "failed":  # what it holds is not known
            try:
                await journal.open()
            except StateError:
                self._try_later()
                return
        for trigger in journal.triggers_of(self._name) - {spec.name for spec in version.manifest.triggers} - self._orphans.keys():
            await self._adopt(trigger)

    async def _adopt(self, trigger: str) -> None:
        """Events on disk that no trigger of the manifest bears the name of go on without one."""
        around = self._around
        queue = await around.journal.queue("event", self._name, trigger)
        version = self._current()
        if trigger in self._orphans:
            self._orphans[trigger][0].look()
        elif version is not None:
            delivery = self._led(version)
            inlet = Inlet(queue, _ORPHANS_AT_ONCE, True, 0.0, _ignore, self._log)
            inflow = Inflow(inlet, around.journal, around.allowance, delivery.submit)
            inflow.keep_to(version.manifest.queue)
            self._orphans[trigger] = inflow, delivery
            inflow.start()

    async def recover(self, trigger: str) -> None:
        """Events of `trigger` have been put on disk: have them run. Without a version they wait for one."""
        host = next((host for _, host, spec in self._triggers if spec.name == trigger), None)
        if host is not None:
            await host.recover()
        elif (version := self._current()) is not None and trigger in {spec.name for spec in version.manifest.triggers}:
            self._recovered.add(trigger)
        else:
            await self._adopt(trigger)

    def key_of(self, trigger: str) -> Callable[[Event], str | None] | None:
        """What the trigger's `dedupe` knows an event by; None without it."""
        return next((host.way.key_of() for _, host, spec in self._triggers if spec.name == trigger), None)

    def deliver(self, event: Event, version: Version) -> asyncio.Future[Response]:
        """An event that no trigger has handed over, and for which nobody waits."""
        self._chained = self._led(version, self._chained)
        return self._chained.submit(event)

    def _led(self, version: Version, delivery: Delivery | None = None) -> Delivery:
        """A delivery that leads to `version`: a new one, or this one from now on."""
        target = version.target(version.function.submit, version.function.submit)
        ending = Ending(self._name, self._around.journal, self._around.outbox)
        delivery = delivery or Delivery(target, self._log, ending)
        delivery.target = target
        return delivery

    async def _start_trigger(self, version: Version, spec: TriggerSpec) -> None:
        host = TriggerHost(version.manifest, spec, self._around, self._withdraw)
        trigger: plugin.Trigger | None = None
        try:
            await host.open(version)
            trigger = plugin.load("trigger", spec.kind)(spec.settings, host)
            assert trigger is not None
            await trigger.start()
            host.started = True
            if host.state == "starting":
                host.report("running")
        except Exception as error:
            host.report("failed", in_words(error))
            if isinstance(error, StateError):
                self._try_later()
        finally:
            self._triggers.append((trigger, host, spec))
            if spec.name in self._recovered:
                self._recovered.discard(spec.name)
                await host.recover()

    def _try_later(self) -> None:
        """A disk that is full, or another agent in the way, mends itself some time."""
        if self._later is None and not self._stopping:
            self._later = asyncio.get_running_loop().call_later(self._backoff.next(), self._try_now)

    def _try_now(self) -> None:
        self._later = None
        self._trying = asyncio.create_task(self.try_again())

    async def try_again(self) -> None:
        """Start the triggers that could not be started: the port's name they lacked, or the function in their way, may have
        changed with the configuration.
        """
        async with self._one_change:
            version, order = self._current(), [host.origin.name for _, host, _ in self._triggers]
            idle = [each for each in self._triggers if not each[1].started]
            if version is None:
                return
            # Until they are replaced they show why they do not run.
            self._triggers = [each if each[1].started else (None, *each[1:]) for each in self._triggers]
            await asyncio.gather(*(stop_all([trigger.stop], host.log) for trigger, host, _ in idle if trigger is not None))
            for _, host, _ in idle:
                host.way.hurry()  # what lies on disk may have begun without its trigger
            with self._around.outbox.hurried(self._name):
                await asyncio.gather(*(host.way.drained() for _, host, _ in idle))
            for _, before, spec in idle:
                await self._start_trigger(version, spec)
                self._triggers = [each for each in self._triggers if each[1] is not before]
            self._triggers.sort(key=lambda each: order.index(each[1].origin.name))
            if version.function.pool.came_up.is_set():
                await self._adopt_all(version)

    def _withdraw(self, future: asyncio.Future[Response]) -> bool:
        version = self._current()
        return version is not None and version.function.withdraw(future)

    async def _stop_triggers(self) -> None:
        triggers, self._triggers = self._triggers, []
        stops = [asyncio.create_task(stop_all([trigger.stop], host.log)) for trigger, host, _ in triggers if trigger is not None]
        await asyncio.sleep(0)  # each has begun to stop, so what it hands over is all there will be
        for _, host, _ in triggers:
            host.way.hurry()
        orphans, self._orphans = self._orphans, {}
        for inflow, delivery in orphans.values():
            inflow.rest()
            delivery.hurry()
        drains = [*(host.way.drained() for _, host, _ in triggers), *(inflow.drained() for inflow, _ in orphans.values())]
        with self._around.outbox.hurried(self._name):
            await asyncio.gather(*stops, *drains)
        for _, host, _ in triggers:
            host.report("stopped")


def _ignore(_reason: str) -> None:
    """Nobody holds such events back: they are on disk already."""
