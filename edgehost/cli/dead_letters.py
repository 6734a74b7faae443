"""`edgehost dead-letters`: what failed for good: listed, shown, run again, dropped.

By the running agent; `list` and `show` also read the file that one has left.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from edgehost.cli import terminal
from edgehost.cli.exits import FAILED
from edgehost.control.client import Client, NoAgentError
from edgehost.control.protocol import MOST_LETTERS
from edgehost.letter import MOST_NUMBERS, Kind, Letters, Which, WholeLetter
from edgehost.manifest.units import seconds

ANSWER_S = 60.0

Numbers = Annotated[list[int] | None, typer.Argument(metavar="NUMBER", help="As `list` shows them.", show_default=False)]
Function = Annotated[str, typer.Option("--function", metavar="NAME", help="Of this function.", show_default=False)]
Trigger = Annotated[str, typer.Option("--trigger", metavar="NAME", help="That came in by this trigger.", show_default=False)]
Output = Annotated[str, typer.Option("--output", metavar="NAME", help="That were to leave by this output.", show_default=False)]
KindOption = Annotated[str, typer.Option("--kind", metavar="event|message", help="Events, or messages.", show_default=False)]
Code = Annotated[
    str, typer.Option("--code", metavar="CODE", help="That failed with this: raised, timeout, …", show_default=False)
]
EventId = Annotated[str, typer.Option("--event", metavar="ID", help="Of the event with this id.", show_default=False)]
Text = Annotated[str, typer.Option("--text", metavar="TEXT", help="With this in their error.", show_default=False)]
Older = Annotated[str | None, typer.Option("--older", metavar="DURATION", help="Dead for longer: 30m, 12h, 7d.")]
Newer = Annotated[str | None, typer.Option("--newer", metavar="DURATION", help="Dead for less.")]
Every = Annotated[bool, typer.Option("--all", help="Every one there is.")]
File = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", exists=True, dir_okay=False, help="No agent: read this journal.db.")
]
Socket = Annotated[Path | None, typer.Option("--socket", metavar="PATH", help="The agent's control socket.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def group() -> typer.Typer:
    """The command with its subcommands."""
    app = typer.Typer(no_args_is_help=True, help="List, show, replay and drop what failed for good.")
    app.command("list")(_list)
    app.command("show")(_show)
    app.command("replay")(_replay)
    app.command("drop")(_drop)
    return app


def _list(
    function: Function = "",
    trigger: Trigger = "",
    output: Output = "",
    kind: KindOption = "",
    code: Code = "",
    event: EventId = "",
    text: Text = "",
    older: Older = None,
    newer: Newer = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, max=MOST_LETTERS, help="Show so many, the newest first.")] = 50,
    file: File = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Show dead letters, the newest first."""
    which = _which(None, function, trigger, output, kind, code, event, text, older, newer)
    found = _find(which, limit, file, socket)
    if as_json:
        terminal.print_json({"letters": found.letters, "matching": found.matching, "functions": found.functions})
        return
    from edgehost.cli.letter_view import table

    others = not found.matching and not which.open and _find(Which(), 0, file, socket).matching > 0
    terminal.console().print(table(found, others))


def _show(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="As `list` shows it.")],
    body: Annotated[
        bool, typer.Option("--body", help="Print the body alone, byte by byte, for a file or another command.")
    ] = False,
    file: File = None,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with its whole event or message."""
    whole = _whole(number, file, socket)
    if body:
        held = whole.event or whole.parcel
        sys.stdout.buffer.write(held.body if held is not None else b"")
        return
    from edgehost.cli import letter_view

    if as_json:
        terminal.print_json(letter_view.as_json(whole))
    else:
        terminal.console().print(letter_view.view(whole))


def _replay(
    numbers: Numbers = None,
    function: Function = "",
    trigger: Trigger = "",
    output: Output = "",
    kind: KindOption = "",
    code: Code = "",
    event: EventId = "",
    text: Text = "",
    older: Older = None,
    newer: Newer = None,
    every: Every = False,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Have dead letters run again: events through their function, messages through their output. They are dead no more."""
    which = _meant(_which(numbers, function, trigger, output, kind, code, event, text, older, newer, every))
    with Client.connect(socket) as agent:
        count = agent.replay(which)
    if as_json:
        terminal.print_json({"replayed": count})
    else:
        print(_done("replayed", count, which))


def _drop(
    numbers: Numbers = None,
    function: Function = "",
    trigger: Trigger = "",
    output: Output = "",
    kind: KindOption = "",
    code: Code = "",
    event: EventId = "",
    text: Text = "",
    older: Older = None,
    newer: Newer = None,
    every: Every = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    socket: Socket = None,
    as_json: AsJson = False,
) -> None:
    """Remove dead letters for good."""
    which = _meant(_which(numbers, function, trigger, output, kind, code, event, text, older, newer, every))
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("there is nobody to ask whether they may go for good; give --yes")
    with Client.connect(socket, ANSWER_S) as agent:
        if not yes:
            _confirm(agent.letters(which, 0))
    # Asked anew: a person may think longer than an agent keeps an idle connection.
    with Client.connect(socket, ANSWER_S) as agent:
        count = agent.drop(which)
    if as_json:
        terminal.print_json({"dropped": count})
    else:
        print(_done("dropped", count, which))


def _confirm(found: Letters) -> None:
    if not found.matching:
        return
    from edgehost.cli.letter_view import counted

    if not typer.confirm(f"Drop {counted(found)} for good?", err=True):
        terminal.note("nothing is dropped")
        raise typer.Exit(FAILED)


def _which(
    numbers: list[int] | None,
    function: str,
    trigger: str,
    output: str,
    kind: str,
    code: str,
    event: str,
    text: str,
    older: str | None,
    newer: str | None,
    every: bool = False,
) -> Which:
    if len(numbers or []) > MOST_NUMBERS:
        raise typer.BadParameter(f"{len(numbers or [])} numbers are more than {MOST_NUMBERS}; give fewer, or say what they share")
    if kind not in ("", "event", "message"):
        raise typer.BadParameter(f"{kind!r} is no kind of dead letter; give event or message", param_hint="'--kind'")
    return Which(
        numbers=numbers or [],
        function=function,
        trigger=trigger,
        output=output,
        kind=cast(Kind, kind or "any"),
        code=code,
        event_id=event,
        text=text,
        older_s=_seconds("--older", older),
        newer_s=_seconds("--newer", newer),
        every=every,
    )


def _meant(which: Which) -> Which:
    if which.open and not which.every:
        raise typer.BadParameter("nothing says which dead letters are meant; give numbers or a filter, or --all for every one")
    return which


def _seconds(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    found = seconds(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; give one such as 90s, 30m, 12h or 7d", param_hint=f"'{option}'")
    return float(found)


def _done(what: str, count: int, which: Which) -> str:
    if count:
        return f"{what} {count:,} dead letter{'' if count == 1 else 's'}"
    return "there are no dead letters" if which.open else f"no dead letter fits: none is {what}"


def _find(which: Which, limit: int, file: Path | None, socket: Path | None) -> Letters:
    from edgehost.cli import journal_file

    if file is not None:
        from edgehost.delivery.letters import find

        return journal_file.ask(file, lambda connection, now: find(connection, which, limit, now))
    try:
        with Client.connect(socket, ANSWER_S) as agent:
            return agent.letters(which, limit)
    except NoAgentError as error:
        raise journal_file.without_agent(error) from error


def _whole(number: int, file: Path | None, socket: Path | None) -> WholeLetter:
    from edgehost.cli import journal_file

    if file is not None:
        from edgehost.delivery.letters import whole

        return journal_file.ask(file, lambda connection, now: whole(connection, number, now))
    try:
        with Client.connect(socket, ANSWER_S) as agent:
            return agent.letter(number)
    except NoAgentError as error:
        raise journal_file.without_agent(error) from error
