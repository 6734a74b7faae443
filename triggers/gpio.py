"""Edges of GPIO lines as events: one GpioTrigger for each `[triggers.NAME]` of kind `gpio`. (Its output: gpio_output.py.)

    setting       an event is
    (none)        each edge that `edges` names
    hold          that, and the moments the line has been held
    window        the pulses of one window, counted

edgehost/gpio decides what a line is and who has it; here edges become events, and losses become states.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta, Struct

from edgehost.errors import TriggerError
from edgehost.event import Event
from edgehost.gpio import clock, pins
from edgehost.gpio.hold import Held, Hold
from edgehost.gpio.line import Edge, Edges, InputWish, Place, Pull
from edgehost.gpio.pulses import Pulses, Window
from edgehost.gpio.trouble import GpioError, State, gone
from edgehost.intake import Dropping, Intake, IntakeSettings
from edgehost.plugin import TriggerHost
from edgehost.reconnect import Reconnect
from edgehost.triggers.gpio_output import GpioOutput, GpioOutputSettings, LineName

__all__ = ["GpioOutput", "GpioOutputSettings", "GpioSettings", "GpioTrigger"]

Span = Annotated[float, Meta(gt=0, le=86400)]
SEQNO_HEADER = "X-Edgehost-Seqno"
LOSS_S = 10.0
"""How long a trigger stays `degraded` after edges were lost."""


class GpioSettings(IntakeSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[triggers.NAME]` with `kind = "gpio"`."""

    lines: Annotated[tuple[LineName, ...], Meta(min_length=1, max_length=64)]
    """Each a header's pin (`BCM17`, `J8-11`), a line's name, or CHIP:OFFSET."""
    edges: Edges = "both"
    pull: Pull = "as-is"
    """The chip's own resistor, where it has one."""
    active_low: bool = False
    """Low is 1 and a falling level is a rising edge: for a button that pulls its line to ground."""
    debounce_s: Annotated[float, Meta(ge=0, le=60)] = 0.0
    hold_s: Span | None = None
    """An event when the line has been 1 for this long."""
    repeat_s: Span | None = None
    """And again every so often while it still is."""
    window_s: Span | None = None
    """Count edges instead, and give one event for each window."""
    driver: pins.DriverName | None = None
    """None: as edgehost.toml says."""
    overflow: Dropping = "drop_oldest"
    """A pin does not wait: unread, its edges would be lost in the kernel instead, 1,024 of them later."""

    def __post_init__(self) -> None:
        if len(set(self.lines)) < len(self.lines):
            raise ValueError(f"lines: {', '.join(self.lines)} names one twice; keep one")
        if self.repeat_s is not None and self.hold_s is None:
            raise ValueError("repeat: goes with hold, the time to the first event")
        if self.window_s is not None and self.hold_s is not None:
            raise ValueError("window: counts, and hold does not go with it; use two triggers")
        if self.window_s is not None and self.edges == "both":
            raise ValueError("window: counts one edge of each pulse; set edges = 'rising' or 'falling'")


class GpioTrigger:
    """See edgehost/plugin.py, Trigger."""

    Settings: ClassVar[type[Struct]] = GpioSettings
    replies: ClassVar[bool] = False

    def __init__(self, settings: GpioSettings, host: TriggerHost) -> None:
        self._settings = settings
        self._host = host
        self._intake = Intake(settings, host)
        self._lines: list[_Line] = []
        self._troubles: dict[str, tuple[State, str]] = {}
        self._losing: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Ask for every line, and wait until each is there or has said why not. Raises PluginError without gpiod."""
        lines = pins.of(self._host, self._settings.driver)
        self._lines = [_Line(name, self._settings, self._host, lines, self) for name in self._settings.lines]
        for line in self._lines:
            line.start()
        await asyncio.gather(*(line.asked.wait() for line in self._lines))

    async def stop(self) -> None:
        """Give the lines back; returns when every event has been answered."""
        for line in self._lines:
            await line.stop()
        if self._losing is not None:
            self._losing.cancel()
        await self._intake.drain()

    def there(self, name: str) -> None:
        """A line is listened to."""
        self._troubles.pop(name, None)
        self._report()

    def away(self, name: str, state: State, reason: str) -> None:
        """A line is not."""
        self._troubles[name] = state, reason
        self._report()

    def offer(self, event: Event) -> None:
        """An event of one of the lines."""
        self._intake.offer(event)

    def lost(self, count: int) -> None:
        """Edges were pushed out of a line's buffer before the agent could read them."""
        self._host.counts["lost"] += count
        if self._losing is None:
            self._losing = asyncio.get_running_loop().call_later(LOSS_S, self._lost_no_more, self._host.counts["lost"])
            self._report()

    def _lost_no_more(self, before: int) -> None:
        now = self._host.counts["lost"]
        self._losing = None
        if now > before:
            self._losing = asyncio.get_running_loop().call_later(LOSS_S, self._lost_no_more, now)
        else:
            self._report()

    def _report(self) -> None:
        """The worst of what is wrong with the lines."""
        if self._troubles:
            state, _ = max(self._troubles.values(), key=lambda trouble: trouble[0] == "failed")
            self._host.report(state, "; ".join(reason for _, reason in self._troubles.values()))
        elif self._losing is not None:
            self._host.report(
                "degraded",
                "edges come faster than they can be read and are lost (counted); use window, or debounce if it bounces",
            )
        else:
            self._host.report("running")


class _Line:
    """One line of a trigger: listened to for as long as it is there, its edges made into events."""

    def __init__(self, name: str, settings: GpioSettings, host: TriggerHost, lines: pins.Pins, trigger: GpioTrigger) -> None:
        self.owner = f"{host.function_name}/{host.origin.name}"
        self.asked = asyncio.Event()
        """Set once the line was asked for, with whatever answer."""
        self._name = name
        self._quoted = msgspec.json.encode(name).decode()
        self._settings = settings
        self._host = host
        self._lines = lines
        self._trigger = trigger
        self._wanted = {"rising": (True,), "falling": (False,), "both": (True, False)}[settings.edges]
        self._wish = InputWish(
            "both" if settings.hold_s else settings.edges, settings.pull, settings.active_low, settings.debounce_s
        )
        self._hold: Hold | None = None
        self._pulses: Pulses | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self._state: State = "degraded"
        self._known = False
        """It has been there once: whatever is wrong later, a chip was pulled out rather than a name misspelt."""
        self._reconnect = Reconnect(self._connect, self._away)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._reconnect.run(), name=f"gpio {self._name}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _connect(self, settled: Callable[[], None]) -> None:
        self._gone.clear()
        place = self._listen()
        settled()
        self.asked.set()
        self._trigger.there(self._name)
        try:
            await self._gone.wait()
        finally:
            self._end(place)
        raise gone(self._name, place)

    def _listen(self) -> Place:
        settings = self._settings
        if settings.hold_s is not None:
            self._hold = Hold(round(settings.hold_s * 1e9), round((settings.repeat_s or 0) * 1e9))
        if settings.window_s is not None:
            self._pulses = Pulses(round(settings.window_s * 1e9), time.monotonic_ns())
        try:
            place = self._lines.listen(self._name, self._wish, self)
        except TriggerError as error:
            if not self._known:
                self._state = error.state if isinstance(error, GpioError) else "failed"
            raise
        self._known, self._state = True, "degraded"
        self._await_due()
        return place

    def _end(self, place: Place) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pulses is not None:
            self._lines.drain()
            self._close(self._pulses.end(time.monotonic_ns()), clock.wall_offset_ns())
            self._pulses = None
        self._lines.leave(place, self)

    def _away(self, reason: str) -> None:
        self.asked.set()
        self._trigger.away(self._name, self._state, reason)

    def edges(self, edges: list[Edge], lost: int) -> None:
        """See edgehost/gpio/inputs.py, Listener."""
        if lost:
            self._trigger.lost(lost)
        wall_ns = clock.wall_offset_ns()
        if self._pulses is not None:
            self._pulses.lose(lost)
            for edge in edges:
                if edge.rising in self._wanted:
                    self._close(self._pulses.pulse(edge.timestamp_ns), wall_ns)
            return
        for edge in edges:
            if self._hold is not None:
                self._held(self._hold.edge(edge), wall_ns)
            if edge.rising in self._wanted:
                self._trigger.offer(self._edge_event(edge, wall_ns))
        if self._hold is not None:
            self._await_due()

    def gone(self) -> None:
        """See edgehost/gpio/inputs.py, Listener."""
        self._gone.set()

    def _await_due(self) -> None:
        """Have a timer run for what the machine in use waits for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        machine = self._hold or self._pulses
        if machine is not None and machine.due_ns is not None:
            delay_s = (machine.due_ns - time.monotonic_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(max(delay_s, 0.0), self._due)

    def _due(self) -> None:
        self._timer = None
        now_ns = time.monotonic_ns()
        self._lines.drain()  # edges of before `now_ns` may wait to be read, a release among them
        if self._hold is not None:
            self._held(self._hold.tick(now_ns), clock.wall_offset_ns())
        if self._pulses is not None:
            self._close(self._pulses.tick(now_ns), clock.wall_offset_ns())
        if not self._gone.is_set():
            self._await_due()

    def _edge_event(self, edge: Edge, wall_ns: int) -> Event:
        what = "rising" if edge.rising else "falling"
        fields = f'"value":{edge.rising:d},"seqno":{edge.seqno}'
        return self._event(what, edge.timestamp_ns, wall_ns, fields, {SEQNO_HEADER: str(edge.seqno)})

    def _held(self, moments: Sequence[Held], wall_ns: int) -> None:
        for held in moments:
            what = "hold" if held.count == 1 else "repeat"
            fields = f'"value":1,"held_s":{held.held_ns / 1e9:.6g},"count":{held.count}'
            self._trigger.offer(self._event(what, held.timestamp_ns, wall_ns, fields))

    def _close(self, windows: Sequence[Window], wall_ns: int) -> None:
        for window in windows:
            fields = (
                f'"count":{window.count},"frequency_hz":{window.frequency_hz:.6g},'
                f'"window_s":{window.length_ns / 1e9:.6g},"lost":{window.lost}'
            )
            self._trigger.offer(self._event("window", window.end_ns, wall_ns, fields))

    def _event(self, what: str, monotonic_ns: int, wall_ns: int, fields: str, headers: dict[str, str] | None = None) -> Event:
        """Made by hand: at 20,000 edges a second a JSON encoder and a dict for each would cost more than the rest."""
        moment_ns = monotonic_ns + wall_ns
        body = f'{{"line":{self._quoted},"edge":"{what}",{fields},"monotonic_ns":{monotonic_ns}}}'
        return Event(
            body.encode(),
            "application/json",
            f"{self._name}-{moment_ns}-{what}",
            clock.date(moment_ns),
            self._host.origin,
            self._name,
            headers or {},
        )
