"""The command line: finds the command's module, lets typer parse, and turns every error into one line and an exit code.

Only the module of the command that was typed is imported (all of them for `--help`), so a command pays for what it uses itself.
A command module offers `command`, a typer function, or `group`, which makes one with subcommands; it raises EdgehostError for
what went wrong and typer.Exit for an exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Annotated, Any

import typer

from edgehost import __version__
from edgehost.errors import EdgehostError

COMMANDS = {
    "run": "edgehost.cli.run",
    "invoke": "edgehost.cli.invoke",
    "functions": "edgehost.cli.functions",
    "new": "edgehost.cli.new",
    "check": "edgehost.cli.check",
    "profile": "edgehost.cli.profile",
    "reload": "edgehost.cli.reload",
    "gpio": "edgehost.cli.gpio",
    "journal": "edgehost.cli.journal",
    "dead-letters": "edgehost.cli.dead_letters",
    "agent": "edgehost.cli.service",
    "install": "edgehost.cli.install",
    "uninstall": "edgehost.cli.uninstall",
}

# typer has click inside from 0.20 on and depends on it before; this is the root of click's errors in both.
ClickError: type[Exception] = typer.BadParameter.__mro__[2]
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def build(only: str | None = None) -> typer.Typer:
    """The typer application with all commands, or with one of them alone."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.callback(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})(_root)
    for name in [only] if only in COMMANDS else COMMANDS:
        module = importlib.import_module(COMMANDS[name])
        if hasattr(module, "group"):
            app.add_typer(module.group(), name=name)
        else:
            app.command(name, **getattr(module, "SETTINGS", {}))(module.command)
    return app


def run(arguments: list[str]) -> int:
    """Parse and carry out one command line; report what goes wrong. Returns the exit code."""
    as_json = "--json" in arguments
    app = build(arguments[0] if arguments else None)
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="edgehost", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except EdgehostError as error:
        return _report_failure(error, as_json)
    except ClickError as error:
        return _report_usage(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Ends as click and rich end it; Python would flush standard output again on its way out, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Functions and models next to the sensors: run them, call them, look after them."""
    if version:
        print(f"edgehost {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def _report_failure(error: EdgehostError, as_json: bool) -> int:
    from edgehost.cli.exits import exit_code

    _report(error.code, str(error), as_json)
    return exit_code(error)


def _report_usage(error: Any, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "edgehost"
    message = error.format_message().rstrip(".")
    if not message:
        return 2  # a command of several without one of them: its help has been printed
    joint = "" if message.endswith("?") else ";"
    _report("usage", f"{message[:1].lower()}{message[1:]}{joint} see `{command} --help`", as_json)
    return 2


def _report(code: str, message: str, as_json: bool) -> None:
    line = json.dumps({"error": code, "message": message}) if as_json else f"edgehost: {message}"
    print(line, file=sys.stderr)
