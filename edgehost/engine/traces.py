"""Tracebacks as a function's author wants them: from the first line of their own code on. Pure; knows exceptions alone."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from edgehost.errors import StartError

_OURS = str(Path(__file__).resolve().parents[2])
"""Where edgehost lies: its frames, and those of the import system, lead to the function and tell its author nothing."""
_PACKAGES = tuple(f"{_OURS}/{name}/" for name in ("edgehost", "runtimes", "triggers"))
_IMPORTS = ("<frozen importlib", "importlib/__init__.py")


def trace(error: BaseException) -> str:
    """The traceback of what went wrong in the function, edgehost's own frames left out at its start."""
    if isinstance(error, StartError) and error.__cause__ is not None:
        error = error.__cause__
    return "".join(traceback.format_exception(type(error), error, _own(error.__traceback__)))


def _own(frames: TracebackType | None) -> TracebackType | None:
    """From the first frame that is neither edgehost's nor the import system's; None if all are."""
    while frames is not None:
        name = frames.tb_frame.f_code.co_filename
        if not name.startswith((*_PACKAGES, _IMPORTS[0])) and not name.endswith(_IMPORTS[1]):
            return frames
        frames = frames.tb_next
    return None
