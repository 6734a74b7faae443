"""Draws the functions of an agent: a line about the agent, a table, a line for everything that needs somebody. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgehost.cli.terminal import duration, plain_table
from edgehost.control.protocol import FunctionStatus, Pong, TriggerStatus

COLOURS = {
    "ready": "green",
    "running": "green",
    "starting": "cyan",
    "degraded": "yellow",
    "crash_loop": "red",
    "failed": "red",
    "stopped": "dim",
}
Note = tuple[str, str, str]
"""Function, style, text."""


def view(agent: Pong, functions: list[FunctionStatus], now: float) -> RenderableType:
    """The whole picture: a line about the agent, the table, and a line for everything that needs somebody."""
    head = Text.assemble(("edgehost ", "bold"), agent.version, f"  pid {agent.pid}  up {duration(now - agent.started)}")
    troubles = [_note("edgehost", "red", trouble) for trouble in agent.troubles]
    if not functions:
        return Group(head, *troubles, "", Text("No functions: give folders to `edgehost run`, or name them in edgehost.toml."))
    blocks: list[RenderableType] = [head, *troubles, "", _functions(functions)]
    if any(function.triggers for function in functions):
        blocks += ["", _triggers(functions)]
    notes = [_note(*note) for function in functions for note in _notes(function, now)]
    return Group(*blocks, *([""] if notes else []), *notes)


def _functions(functions: list[FunctionStatus]) -> Table:
    dropped = any(function.dropped for function in functions)
    table = plain_table("FUNCTION", "STATE")
    for title in ("WORKERS", "QUEUE", "BUSY", "HANDLED", "FAILED", *(["DROPPED"] if dropped else []), "P50 ms", "P99 ms"):
        table.add_column(title, justify="right", no_wrap=True)
    for function in functions:
        table.add_row(
            Text(function.name),
            Text(function.state, COLOURS[function.state]),
            f"{function.workers_ready}/{function.workers_wanted}",
            f"{function.queued:,}",
            f"{function.in_flight:,}",
            f"{function.handled:,}",
            Text(f"{function.failed:,}", "red" if function.failed else ""),
            *([Text(f"{function.dropped:,}", "yellow" if function.dropped else "")] if dropped else []),
            _milliseconds(function.p50_ms),
            _milliseconds(function.p99_ms),
        )
    return table


def _triggers(functions: list[FunctionStatus]) -> Table:
    table = plain_table("TRIGGER", "KIND", "STATE")
    table.add_column("", overflow="fold")
    for function in functions:
        for trigger in function.triggers:
            table.add_row(
                Text(f"{function.name}/{trigger.name}"),
                trigger.kind,
                Text(trigger.state, COLOURS[trigger.state]),
                Text("  ".join([*filter(None, [" ".join(trigger.message.split())]), *_counts(trigger)])),
            )
    return table


def _counts(trigger: TriggerStatus) -> list[str]:
    return [f"{name} {count:,}" for name, count in trigger.counts.items() if count]


def _notes(function: FunctionStatus, now: float) -> Iterator[Note]:
    """Function, style and text of what a person should read: states that are not well, last error, unused manifest keys."""
    if function.state not in ("ready", "starting"):
        since = f" for {duration(now - function.since)}" if function.since else ""
        yield function.name, COLOURS[function.state], f"{function.state}{since}"
    if function.last_error:
        yield function.name, "red", f"last error: {function.last_error}"
    for warning in function.warnings:
        yield function.name, "yellow", f"manifest: {warning}"
    if function.limits:
        yield function.name, "dim", f"limits: {', '.join(function.limits)}"
    if function.sandbox:
        yield function.name, "dim", f"sandbox: {function.sandbox}"


def _note(function: str, style: str, text: str) -> Text:
    return Text.assemble((function, "bold"), "  ", (" ".join(text.split()), style))


def _milliseconds(value: float | None) -> str:
    if not value:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
