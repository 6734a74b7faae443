"""Draws the journal: a line about it, what is wrong, what waits, what is dead, what was written. Asks nobody."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgehost.cli.terminal import duration, plain_table
from edgehost.control.stock import JournalStatus, OutputStock
from edgehost.delivery.sizes import roughly

COLOURS = {
    "open": "green",
    "opening": "cyan",
    "failed": "red",
    "direct": "green",
    "leaving": "cyan",
    "waiting": "yellow",
    "gone": "red",
}
_COUNTS = ("stored", "left", "dropped", "expired", "refused")


def view(status: JournalStatus) -> RenderableType:
    """The whole picture."""
    head = Text.assemble(("journal ", "bold"), (status.state, COLOURS.get(status.state, "")), f"  {status.path}")
    if status.state == "unused":
        return Group(head, "", Text("Nothing needs it yet: no durable trigger, no `dedupe`, no output that can wait on disk."))
    if status.size_bytes:
        head.append(f"  {roughly(status.size_bytes)}")
    if status.clock_s:
        head.append(f"  {duration(status.clock_s)} of running time")
    blocks: list[RenderableType] = [head, *_wrong(status), "", *_events(status), "", *_outbox(status), "", _dead(status)]
    if status.written:
        blocks += ["", _written(status)]
    return Group(*blocks)


def _wrong(status: JournalStatus) -> list[RenderableType]:
    """One line for everything that needs somebody."""
    told = [(status.trouble, "red"), (status.refusal, "yellow"), *((note, "yellow") for note in status.notes)]
    if status.partly:
        told.append(("what waits in it could not be read now; sizes and counts below are what the agent knows", "yellow"))
    return [Text(" ".join(text.split()), style) for text, style in dict(told).items() if text]


def _events(status: JournalStatus) -> list[RenderableType]:
    if not status.events:
        return [Text("It is not known which events wait." if status.partly else "No durable event waits.")]
    table = _table("EVENTS OF", "WAITING", "SIZE", "OLDEST")
    for each in status.events:
        table.add_row(Text(f"{each.function}/{each.trigger}"), f"{each.count:,}", roughly(each.bytes), duration(each.oldest_s))
    return [table, *_share(sum(each.bytes for each in status.events), status.events_limit_bytes, "events")]


def _outbox(status: JournalStatus) -> list[RenderableType]:
    if not status.outbox:
        return [Text("No message waits to leave.")]
    table = plain_table("OUTPUT", "STATE")
    counts = [name for name in _COUNTS if any(each.counts.get(name) for each in status.outbox)]
    for title in ("WAITING", "SIZE", "OLDEST", *(name.upper() for name in counts)):
        table.add_column(title, justify="right", no_wrap=True)
    for each in status.outbox:
        numbers = [f"{each.counts.get(name, 0):,}" for name in counts]
        table.add_row(
            Text(f"{each.function}/{each.output}"), Text(each.state, COLOURS.get(each.state, "")), *_waiting(each), *numbers
        )
    return [table, *_share(sum(each.bytes for each in status.outbox), status.outbox_limit_bytes, "outbox")]


def _waiting(each: OutputStock) -> tuple[str, str, str]:
    return (f"{each.count:,}", roughly(each.bytes), duration(each.oldest_s)) if each.count else ("0", "-", "-")


def _share(used_bytes: int, limit_bytes: int, key: str) -> list[RenderableType]:
    if not limit_bytes or not used_bytes:
        return []
    return [Text(f"{roughly(used_bytes)} of {roughly(limit_bytes)} ([journal] {key})", "dim")]


def _dead(status: JournalStatus) -> Text:
    if not status.dead_letters:
        return Text("No dead letters.")
    text = Text(f"{status.dead_letters:,} dead letter{'s' if status.dead_letters > 1 else ''}", "red")
    if status.dead_letters_limit:
        text.append(f" of at most {status.dead_letters_limit:,}", "")
    if status.dead_letters_dropped:
        text.append(f", {status.dead_letters_dropped:,} older ones were dropped")
    return text.append("; see `edgehost dead-letters list`", "default")


def _written(status: JournalStatus) -> Table:
    table = _table("WRITTEN BY", "TODAY", "7 DAYS")
    for each in status.written:
        table.add_row(each.component, roughly(each.today_bytes), roughly(each.week_bytes))
    return table


def _table(first: str, *others: str) -> Table:
    table = plain_table(first)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table
