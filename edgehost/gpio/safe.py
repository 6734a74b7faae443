"""What driven lines and PWM channels fall to when their agent can no longer say: noted while it lives, applied once it is dead.

    an output comes or goes     the note is written anew, in a folder that a reboot empties
    nothing is driven           there is no note
    the agent has ended         its service runs `edgehost gpio safe`; a note that is still there then is of a killed agent
Written only where a service manager gives a run-time folder ($RUNTIME_DIRECTORY, systemd.exec(5)): nobody else would read it.
Must not know functions, and why a line is driven.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from edgehost.errors import EdgehostError, StateError
from edgehost.gpio.line import Driver, OutputWish, Place
from edgehost.gpio.pwm import Pwm, PwmSettings
from edgehost.state import StateFile

_log = logging.getLogger("edgehost.gpio")

CONSUMER = "edgehost gpio safe"


class SafeLine(Struct, frozen=True):
    """A driven line that is to have the logical level `value`."""

    place: Place
    wish: OutputWish
    value: bool
    owner: str


class Note(Struct, frozen=True):
    """All of them, and the PWM channels that are to have their safe duty."""

    lines: list[SafeLine] = []
    pwm: list[PwmSettings] = []


def note_file(environ: Mapping[str, str]) -> StateFile[Note] | None:
    """Where the note belongs, if somebody reads it."""
    folder = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return StateFile(Path(folder) / "gpio-safe.json", Note) if folder else None


class SafeStates:
    """The agent's side: keeps the note true."""

    KEY = "gpio-safe"

    def __init__(self, file: StateFile[Note] | None) -> None:
        self._file = file
        self._lines: dict[Place, SafeLine] = {}
        self._pwm: dict[Path, PwmSettings] = {}

    @classmethod
    def here(cls) -> SafeStates:
        """For this process."""
        return cls(note_file(os.environ))

    def line(self, place: Place, safe: SafeLine | None) -> None:
        """What this line falls to; None: it is not driven any more, or stays as it is."""
        if safe is None:
            if self._lines.pop(place, None) is None:
                return
        else:
            self._lines[place] = safe
        self._write()

    def pwm(self, channel: Path, settings: PwmSettings | None) -> None:
        """This channel is driven; None: not any more."""
        if settings is None:
            self._pwm.pop(channel, None)
        else:
            self._pwm[channel] = settings
        self._write()

    async def close(self) -> None:
        """Every line has been given back by now."""

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            if self._lines or self._pwm:
                self._file.save(Note(list(self._lines.values()), list(self._pwm.values())))
            else:
                self._file.path.unlink(missing_ok=True)
        except (StateError, OSError) as error:
            _log.warning("safe levels are not noted, and would not be set if the agent were killed now: %s", error)


def apply(file: StateFile[Note], driver: Callable[[], Driver]) -> list[str]:
    """Set what the note says, and remove it. Returns what was done or could not be, a line each; none if there is no note."""
    note = file.load()
    if note is None:
        return []
    said = []
    for line in note.lines:
        where = f"{line.place.chip} line {line.place.offset} of {line.owner}"
        try:
            driver().output(line.place, line.wish, line.value, CONSUMER).release()
            said.append(f"{where}: {'on' if line.value else 'off'}, its safe level")
        except (OSError, EdgehostError) as error:
            said.append(f"{where}: not set to its safe level: {error}")
    for settings in note.pwm:
        try:
            Pwm(settings).rest()
            said.append(f"pwmchip{settings.chip} channel {settings.channel}: {settings.safe_duty:g}, its safe duty")
        except EdgehostError as error:
            said.append(str(error))
    file.path.unlink(missing_ok=True)  # last: who is killed on the way leaves it to be done again
    return said
