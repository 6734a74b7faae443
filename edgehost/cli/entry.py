"""The `edgehost` console script: sends `agent` straight to the agent, and everything else to the command line proper.

The agent lives for months on a small device, so nothing may be imported here that it does not need: no typer, no rich. Neither
by `gpio safe`, which runs between a killed agent and the next one.
"""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["agent"]:
        from edgehost.agent import main as run_agent

        return run_agent(given[1:])
    if given == ["gpio", "safe"]:
        from edgehost.cli.gpio_safe import main as make_safe

        return make_safe()
    from edgehost.cli.app import run

    return run(given)


if __name__ == "__main__":
    sys.exit(main())
