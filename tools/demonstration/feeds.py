"""The devices the demonstration plays, each a thread: a microphone with recorded speech, and a machine whose bearing runs hot.

They pace themselves by the clock and stop when told; what they send they hand to the Observer.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Sequence
from threading import Event, Thread

from tools.demonstration.observer import Observer
from tools.demonstration.sound import FRAME_S, Recording

SYNTHETIC_EVERY_S = 0.25
SPIKE_EVERY_S = 8.0
"""A made-up bearing is 25 °C too hot for one reading, so often."""


class Feeds:
    """Starts the devices, counts the spikes it sent, ends the threads."""

    def __init__(self, observer: Observer, recordings: Sequence[Recording], speed: float) -> None:
        self.spikes_sent = 0
        self._observer = observer
        self._recordings = recordings
        self._speed = speed
        self._ended = Event()
        self._threads = [Thread(target=work, daemon=True) for work in (self._speak, self._measure)]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing more; returns when the last event is on its way."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _speak(self) -> None:
        frames = ((recording.name, frame) for recording in itertools.cycle(self._recordings) for frame in recording.frames)
        self._paced(FRAME_S / self._speed, lambda: self._observer.send_frame(*next(frames)))

    def _measure(self) -> None:
        began, last_spike = time.monotonic(), 0

        def send() -> None:
            nonlocal last_spike
            seconds = time.monotonic() - began
            bearing_c = 45 + 2 * math.sin(seconds / 5) + random.gauss(0, 0.3)
            if int(seconds / SPIKE_EVERY_S) > last_spike:
                last_spike = int(seconds / SPIKE_EVERY_S)
                self.spikes_sent += 1
                bearing_c += 25
            self._observer.send_synthetic({"bearing_c": round(bearing_c, 2)})

        self._paced(SYNTHETIC_EVERY_S, send)

    def _paced(self, period_s: float, send: Callable[[], None]) -> None:
        """Call `send` every `period_s`, counted from the start, so that a slow call does not shift the ones after it."""
        due = time.monotonic()
        while not self._ended.is_set():
            send()
            due += period_s
            self._ended.wait(max(0.0, due - time.monotonic()))
