"""What a process that the agent starts may see of the agent's environment, and how its end is said in words.

Must not know who starts it or why.
"""

from __future__ import annotations

import os
import signal

INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
)
"""Of the agent's environment a child sees these alone; the rest may hold the agent's own secrets."""


def inherited_environment() -> dict[str, str]:
    """What a zygote (and so every worker) and a command start with."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def signal_name(number: int) -> str:
    """`SIGTERM`; `signal 35` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


def end_in_words(status: int) -> str:
    """A wait status (wait(2)): `exit status 3` or `killed by SIGTERM`."""
    if os.WIFSIGNALED(status):
        return f"killed by {signal_name(os.WTERMSIG(status))}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"
