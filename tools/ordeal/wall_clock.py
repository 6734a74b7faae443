"""The wall clock that the agent sees, turned while it runs by libfaketime; its monotonic clocks stay true. Knows no agent."""

from __future__ import annotations

from pathlib import Path

_LIBRARIES = "usr/lib/*/faketime/libfaketime.so.1"


class WallClock:
    """`environment` is for the agent; `refusal` says why its clock cannot be turned, and then `environment` is empty."""

    def __init__(self, folder: Path, root: Path = Path("/")) -> None:
        self.refusal = ""
        self.environment: dict[str, str] = {}
        self._file = folder / "clock"
        found = sorted(root.glob(_LIBRARIES))
        if not found:
            self.refusal = "libfaketime is not installed (apt-get install faketime)"
            return
        self.set(0.0)
        self.environment = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            # Else waits on a monotonic clock, such as that for the interpreter lock, end at once, again and again.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def set(self, offset_s: float) -> None:
        """From now on it goes wrong by so many seconds."""
        fresh = self._file.with_name("clock.new")
        fresh.write_text(f"{int(offset_s):+d}\n")
        fresh.replace(self._file)
