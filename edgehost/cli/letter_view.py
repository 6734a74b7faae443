"""Draws dead letters: a table of many, one whole, and one as a value for JSON. Asks nobody."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from edgehost.cli.terminal import duration, harmless, plain_table
from edgehost.delivery.sizes import roughly
from edgehost.event import EPOCH, Event
from edgehost.letter import Letter, Letters, WholeLetter

_SHOWN_BYTES = 16 * 1024


def table(found: Letters, others: bool = False) -> RenderableType:
    """Those found. `others`: there are some that were not asked for."""
    if not found.matching:
        return Text("No dead letter fits; `edgehost dead-letters list` shows every one." if others else "No dead letters.")
    letters = plain_table()
    letters.add_column("NUMBER", justify="right", no_wrap=True)
    for title in ("FUNCTION", "WHERE", "FAILED"):
        letters.add_column(title, no_wrap=True)
    letters.add_column("TRIES", justify="right", no_wrap=True)
    letters.add_column("CODE", no_wrap=True)
    letters.add_column("ERROR")  # the one that a narrow terminal cuts short
    for each in found.letters:
        letters.add_row(
            str(each.number),
            Text(each.function),
            Text(f"output {each.output}" if each.output else f"trigger {each.trigger}" if each.trigger else "-"),
            _moment(each.failed),
            str(each.attempts),
            Text(each.code, "red"),
            Text(_brief(each.error), no_wrap=True, overflow="ellipsis"),
        )
    told = counted(found)
    if len(found.letters) < found.matching:
        told = f"the newest {len(found.letters):,} of {told}"
    foot = Text(f"{told}; one whole: `edgehost dead-letters show NUMBER`", "dim")
    return Group(letters, "", foot) if found.letters else Text(counted(found))


def counted(found: Letters) -> str:
    """`12 dead letters (pump 10, rtd 2)`."""
    functions = ", ".join(f"{name} {count:,}" for name, count in found.functions.items())
    return f"{found.matching:,} dead letter{'' if found.matching == 1 else 's'} ({functions})"


def view(whole: WholeLetter) -> RenderableType:
    """One letter, everything of it that people can read."""
    letter = whole.letter
    what = "message" if letter.output else "event"
    head = Text.assemble((f"dead letter {letter.number}", "bold"), f"  {what} of {letter.function}")
    facts = plain_table()
    facts.show_header = False
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, told in _facts(whole):
        facts.add_row(name, Text(harmless(told)))
    return Group(head, "", facts, "", Text("error", "bold"), Text(_indented(letter.error), "red"), "", *_body(whole))


def as_json(whole: WholeLetter) -> dict[str, Any]:
    """One letter as JSON has it: its body as text, or in base64 where it is none."""
    held = whole.event or whole.parcel
    told = msgspec.structs.asdict(held) if held is not None else {}
    body = told.pop("body", b"")
    try:
        told["body"] = body.decode()
    except UnicodeDecodeError:
        told["body_base64"] = body
    if isinstance(held, Event):
        told["trigger"] = {"kind": held.trigger.kind, "name": held.trigger.name}
    return {"letter": whole.letter, "message" if whole.letter.output else "event": told}


def _facts(whole: WholeLetter) -> Iterator[tuple[str, str]]:
    letter, event, parcel = whole.letter, whole.event, whole.parcel
    yield "id", letter.event_id
    if event is not None:
        yield "trigger", f"{letter.trigger or '-'} ({event.trigger.kind})" if event.trigger.kind else letter.trigger or "-"
    else:
        yield "output", letter.output
    yield "failed", f"{_moment(letter.failed)}, {duration(letter.age_s)} ago, after {_tries(letter)}: {letter.code}"
    yield ("received" if event is not None else "published"), _moment(letter.received)
    if event is not None:
        for name in ("topic", "method", "path", "url", "type"):
            if (told := getattr(event, name)) and (name, told) != ("path", "/"):
                yield name, str(told)
        if event.fields:
            yield "fields", ", ".join(f"{name}={value}" for name, value in event.fields.items())
    if parcel is not None:
        yield "to", parcel.to
    held = event or parcel
    for name, value in (held.headers if held is not None else {}).items():
        yield "header", f"{name}: {value}"


def _body(whole: WholeLetter) -> list[RenderableType]:
    held = whole.event or whole.parcel
    if held is None or not held.body:
        return [Text("no body", "bold")]
    kind = f", {held.content_type}" if held.content_type else ""
    head = Text.assemble(("body", "bold"), f"  {roughly(len(held.body))}{harmless(kind)}")
    try:
        text = held.body.decode()
    except UnicodeDecodeError:
        return [head, Text(f"  it is not text; `edgehost dead-letters show {whole.letter.number} --body > FILE` saves it")]
    if len(text) > _SHOWN_BYTES:
        text = f"{text[:_SHOWN_BYTES]}\n... all of it: `edgehost dead-letters show {whole.letter.number} --body`"
    return [head, Text(_indented(text))]


def _tries(letter: Letter) -> str:
    return "1 attempt" if letter.attempts == 1 else f"{letter.attempts} attempts"


def _moment(unix_s: float) -> str:
    if unix_s <= EPOCH.timestamp():
        return "-"
    return datetime.fromtimestamp(unix_s, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _brief(error: str) -> str:
    """Its first line; of a traceback the last, where Python says what it was."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return harmless(lines[-1 if lines[0].startswith("Traceback") else 0]) if lines else ""


def _indented(text: str) -> str:
    return textwrap.indent(harmless(text.rstrip()), "  ")
