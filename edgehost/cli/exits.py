"""The exit codes of the command line, and which error ends with which. docs/cli.md repeats this table for people."""

from __future__ import annotations

from edgehost.control.client import AnswerTimeoutError, NoAgentError, RefusedError
from edgehost.errors import ConfigError, ControlError, EdgehostError, ManifestError, PluginError

OK = 0
FAILED = 1
"""The function failed or answered 400 or more; a check found a failure; a worker could not be started; our reader went away."""
USAGE = 2
WRONG_FILE = 3
"""A manifest or edgehost.toml is wrong, or names a plugin that is not installed."""
NO_AGENT = 4
REFUSED = 5
"""The agent (or its socket) said no: no such function, say."""
NO_ANSWER = 6
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

_CODES: tuple[tuple[type[EdgehostError], int], ...] = (
    (NoAgentError, NO_AGENT),
    (AnswerTimeoutError, NO_ANSWER),
    (RefusedError, REFUSED),
    (ControlError, REFUSED),
    (ManifestError, WRONG_FILE),
    (ConfigError, WRONG_FILE),
    (PluginError, WRONG_FILE),
)


def exit_code(error: EdgehostError) -> int:
    """The first entry of the table that fits; everything else counts as a failed function."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def answer_code(status: int, code: str) -> int:
    """What a function's answer ends `edgehost invoke` with: 0 below 400, 1 for everything else and for every failure."""
    return FAILED if code or status >= 400 else OK
