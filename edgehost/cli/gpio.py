"""`edgehost gpio`: lines listed, read, set, pulsed and watched. The running agent's simulated ones, or, where there are none, the
kernel's (edgehost/cli/gpio_chips.py). Levels are the wire's: 1 is high, 0 is low.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from edgehost.cli import terminal
from edgehost.cli.gpio_chips import Chips
from edgehost.cli.gpio_safe import main as make_safe
from edgehost.control.client import Client, NoAgentError, RefusedError
from edgehost.control.protocol import GpioChange, GpioLine, GpioLines, GpioPulse, GpioRead, GpioSet

ChipOption = Annotated[
    str | None,
    typer.Option("--chip", metavar="CHIP", help="The kernel's lines, and the chip that a number is on: name, label or path."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", exists=True, dir_okay=False, help="The edgehost.toml with chip and profile."),
]
SocketOption = Annotated[Path | None, typer.Option("--socket", metavar="PATH", help="The agent's control socket.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LineArgument = Annotated[str, typer.Argument(metavar="LINE", help="BCM17, J8-11, SENSOR_A or gpiochip0:17.")]

_LEVELS = {"1": True, "on": True, "high": True, "0": False, "off": False, "low": False}


def group() -> typer.Typer:
    """The command with its subcommands."""
    app = typer.Typer(no_args_is_help=True, help="List, read, set and watch GPIO lines: an agent's simulated ones, or real ones.")
    app.command("list")(_list)
    app.command("get")(_get)
    app.command("set")(_set)
    app.command("pulse")(_pulse)
    app.command("watch")(_watch)
    app.command("safe")(_safe)
    return app


def _list(chip: ChipOption = None, config: ConfigOption = None, socket: SocketOption = None, as_json: JsonOption = False) -> None:
    """Show every line that has a name or a user."""
    with _agent(socket, chip) as agent:
        lines = agent.gpio(GpioRead()) if agent is not None else Chips(chip, config).lines()
        if as_json:
            terminal.print_json({"simulated": agent is not None, "lines": lines})
            return
    terminal.console().print(_table(lines))


def _get(
    line: LineArgument,
    chip: ChipOption = None,
    config: ConfigOption = None,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a line's level. A line of the kernel becomes an input for that."""
    with _agent(socket, chip) as agent:
        (found,) = agent.gpio(GpioRead([line])) if agent is not None else [Chips(chip, config).get(line)]
    _print_level(found, as_json)


def _set(
    line: LineArgument,
    value: Annotated[str, typer.Argument(metavar="0|1", help="Or off, on, low, high.")],
    hold: Annotated[
        float | None,
        typer.Option("--for", metavar="SECONDS", min=0, help="How long to drive a line of the kernel; else until Ctrl-C."),
    ] = None,
    chip: ChipOption = None,
    config: ConfigOption = None,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pull a simulated line, as a button or a sensor would; or drive a line of the kernel."""
    high = _LEVELS.get(value.lower())
    if high is None:
        raise typer.BadParameter(f"{value!r} is no level; give 0 or 1")
    with _agent(socket, chip) as agent:
        if agent is not None:
            agent.gpio(GpioSet(line, high))
        else:
            Chips(chip, config).set(line, high, hold)


def _pulse(
    line: LineArgument,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000_000, help="How many pulses.")] = 1,
    frequency: Annotated[
        float, typer.Option("--frequency", "-f", metavar="HZ", min=0.001, max=1_000_000, help="Pulses a second.")
    ] = 10.0,
    socket: SocketOption = None,
) -> None:
    """Pull a simulated line to its other level and back, again and again: a meter, a fan, a bouncing key."""
    with Client.connect(socket) as agent:
        agent.gpio(GpioPulse(line, count, frequency))


def _watch(
    lines: Annotated[list[str] | None, typer.Argument(metavar="[LINE]...", help="Without any: all simulated lines.")] = None,
    chip: ChipOption = None,
    config: ConfigOption = None,
    socket: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print each change of lines, until Ctrl-C."""
    with _agent(socket, chip) as agent:
        if agent is None:
            for change in Chips(chip, config).watch(lines or []):
                _print_change(change, as_json)
            return
        for told in agent.gpio_watch(lines or []):
            if isinstance(told, GpioLines):
                for line in told.lines:
                    _print_level(line, as_json, f"{line.line}  ")
                continue
            if told.lost:
                terminal.note(f"{told.lost} changes came too fast to be shown")
            for change in told.changes:
                _print_change(change, as_json)


def _safe() -> None:
    """Give the lines that a killed agent drove their safe levels. The service does this by itself."""
    raise typer.Exit(make_safe())


@contextmanager
def _agent(socket: Path | None, chip: str | None) -> Iterator[Client | None]:
    """The agent that simulates lines; None where the kernel's are meant: with `--chip`, or if no agent simulates any."""
    client = _simulating(socket) if chip is None else None
    if client is None:
        yield None
        return
    with client:
        yield client


def _simulating(socket: Path | None) -> Client | None:
    try:
        client = Client.connect(socket)
    except NoAgentError as no_agent:
        if Chips.there():
            return None
        raise NoAgentError(
            f"there are neither simulated lines ({no_agent}) nor lines of the kernel (no /dev/gpiochip*); "
            "to try without hardware: `edgehost run --gpio sim FOLDER`"
        ) from None
    try:
        client.gpio(GpioRead())
    except RefusedError:
        client.close()
        if Chips.there():
            return None
        raise
    return client


def _table(lines: Sequence[GpioLine]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("LINE", "PLACE", "DIRECTION", "LEVEL", "USED BY"):
        table.add_column(column)
    for line in lines:
        level = "" if line.high is None else f"{line.high:d}"
        table.add_row(line.line, line.place, "out" if line.output else "in", level, line.consumer)
    return table


def _print_level(line: GpioLine, as_json: bool, before: str = "") -> None:
    if as_json:
        terminal.print_json(line)
    else:
        print(f"{before}{line.high or 0:d}", flush=True)


def _print_change(change: GpioChange, as_json: bool) -> None:
    if as_json:
        terminal.print_json(change)
    else:
        moment = datetime.fromtimestamp(change.time).isoformat(sep=" ", timespec="microseconds")
        print(f"{moment}  {change.line}  {change.high:d}", flush=True)
