"""`edgehost run`: checks the options, then becomes the agent by exec, so that the agent never holds typer."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

START_AGENT = (
    ["-P", "-m", "edgehost.agent"]
    if sys.version_info >= (3, 11)
    else ["-c", "import sys; sys.path.pop(0); from edgehost.agent import main; sys.exit(main())"]
)
"""The interpreter's part of the agent's command line. It keeps the working folder off sys.path, where a function's `queue.py`
would shadow the standard library's."""


class GpioDriver(str, Enum):
    """The agent's own `--gpio`."""

    auto = "auto"
    gpiod = "gpiod"
    sim = "sim"


class LogLevel(str, Enum):
    """The agent's own `--log-level`."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class LogFormat(str, Enum):
    """The agent's own `--log-format`."""

    auto = "auto"
    text = "text"
    json = "json"


def broker_choice(value: str | None) -> str | None:
    """`embedded` or a broker's URL; refuses anything else as a usage error."""
    if value is None or value == "embedded":
        return value
    try:
        url = urlsplit(value)
        fits = url.scheme in ("mqtt", "mqtts") and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        fits = False
    if not fits:
        raise typer.BadParameter(f"{value!r} is no broker; give embedded, mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    return value


def listen_address(value: str | None) -> str | None:
    """HOST:PORT with a port from 0 (any free one) to 65535; refuses anything else as a usage error."""
    if value is None:
        return value
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise typer.BadParameter(f"{value!r} is no address to listen at; give HOST:PORT, as in 127.0.0.1:8080 or [::1]:8080")
    return value


def command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help="Folders of one function each.", show_default="."),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(metavar="embedded|URL", callback=broker_choice, help="One started by the agent, or mqtt://HOST."),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", callback=listen_address, help="Where http triggers listen.", show_default="127.0.0.1:8080"
        ),
    ] = None,
    serial: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]PORT", help="What a serial port's name means; without a name, `default`."),
    ] = None,
    gpio: Annotated[GpioDriver | None, typer.Option(help="sim: simulated pins, moved with `edgehost gpio`.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Reload a function when one of its files changes.")] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="An edgehost.toml to start from.")
    ] = None,
    socket: Annotated[Path | None, typer.Option(metavar="PATH", help="The control socket, for `edgehost invoke`.")] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="What must survive a restart: durable events, what waits to leave.")
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="What the log is to hold.")] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="auto: text on a terminal, JSON lines otherwise.")] = None,
) -> None:
    """Run functions straight from their folders, until Ctrl-C."""
    if not folders and config is None:
        folders = [Path()]
    options: dict[str, object] = {
        "--broker": broker,
        "--http": http,
        "--serial": serial,
        "--gpio": gpio and gpio.value,
        "--config": config,
        "--socket": socket,
        "--state": state,
        "--log-level": log_level and log_level.value,
        "--log-format": log_format and log_format.value,
    }
    arguments = agent_arguments(folders or [], watch, options)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *START_AGENT, *arguments])


def agent_arguments(folders: list[Path], watch: bool, options: dict[str, object]) -> list[str]:
    """The agent's command line. `--option=value` throughout: a folder may be called `-x`."""
    functions = [f"--function={folder}" for folder in folders]
    several = [(name, value if isinstance(value, list) else [value]) for name, value in options.items() if value is not None]
    given = [f"{name}={value}" for name, values in several for value in values]
    return [*functions, *given, *(["--watch"] if watch else [])]
