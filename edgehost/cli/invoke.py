"""`edgehost invoke`: calls a function once, through the running agent or (--local) in a worker of its own, and shows the answer.

The body goes to standard output as it is, so that it can be piped; all else that a person should know goes to standard error.
"""

from __future__ import annotations

import mimetypes
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgehost.cli.answers import show, show_json
from edgehost.control.client import Client
from edgehost.control.protocol import Answer, Chunk, Done, Invoke

LOG_LEVEL_HEADER = "X-Edgehost-Log-Level"
"""Asks for a call's own log records (handler contract, "Status codes of the HTTP trigger")."""


class Level(str, Enum):
    """The least important log records to show."""

    debug = "debug"
    info = "info"
    warn = "warn"
    error = "error"


def command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The function, as `edgehost functions` lists it.")] = None,
    local: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", exists=True, file_okay=False, help="No agent: load this folder's function, call it, end."),
    ] = None,
    body: Annotated[str | None, typer.Option("--body", "-b", metavar="TEXT", help="The event's body.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the body from a file; - is standard input.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="One header; may be repeated.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="The event's method.", show_default="POST with a body, else GET")] = None,
    path: Annotated[str, typer.Option(help="The event's path.")] = "/",
    content_type: Annotated[
        str | None, typer.Option(help="What the body is.", show_default="by the file's name, or by the look of --body")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.001, help="Wait no longer than this.", show_default="the function's own time-out"),
    ] = None,
    log_level: Annotated[Level | None, typer.Option(help="Show what this call logged, from this level on.")] = None,
    socket: Annotated[Path | None, typer.Option(metavar="PATH", help="The agent's control socket.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with the whole answer.")] = False,
) -> None:
    """Call one function once and print its answer. Ends with 0 below status 400, else with 1."""
    if (name is None) == (local is None):
        raise typer.BadParameter("give the NAME of a function of the running agent, or --local FOLDER; one of the two")
    data = _read_body(body, file)
    request = Invoke(
        function=name or "",
        body=data or b"",
        content_type=_content_type(body, file) if content_type is None else content_type,
        headers=_headers(header or [], log_level),
        method=method or ("GET" if data is None else "POST"),
        path=path,
    )
    if local is not None:
        raise typer.Exit(_invoke_local(local, request, timeout, as_json))
    raise typer.Exit(_invoke_agent(request, socket, timeout, as_json))


def _read_body(body: str | None, file: Path | None) -> bytes | None:
    """The body in bytes, None if none was given. Raises a usage error for two."""
    if body is not None and file is not None:
        raise typer.BadParameter("--body and --file are both given; give one")
    if file is None:
        return None if body is None else body.encode("utf-8", "surrogateescape")
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"--file {str(file)!r} cannot be read: {error.strerror}") from error


def _content_type(body: str | None, file: Path | None) -> str:
    """What the body most likely is: by the file's name, or application/json for text that is a JSON object or array."""
    if file is not None:
        return mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    if body is None:
        return ""
    return "application/json" if _is_json(body) else "text/plain"


def _is_json(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), (dict, list))
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False


def _headers(given: list[str], log_level: Level | None) -> dict[str, str]:
    headers = {LOG_LEVEL_HEADER: log_level.value} if log_level is not None else {}
    for text in given:
        name, colon, value = text.partition(":")
        if not (colon and name.strip()):
            raise typer.BadParameter(f"--header {text!r} is no header; give NAME:VALUE")
        headers[name.strip()] = value.strip()
    return headers


def _invoke_agent(request: Invoke, socket: Path | None, timeout_s: float | None, as_json: bool) -> int:
    with Client.connect(socket, timeout_s) as client:
        replies = client.invoke(request)
        return show_json(replies, None) if as_json else show(request.function, replies)


def _invoke_local(folder: Path, request: Invoke, timeout_s: float | None, as_json: bool) -> int:
    from edgehost.cli.local_call import call_once

    response, duration_ms, logs = call_once(folder, request, timeout_s)
    replies: list[Answer | Chunk | Done] = [
        Answer(response.status, response.content_type, response.headers, response.code),
        Chunk(response.body),
        Done(duration_ms),
    ]
    return show_json(replies, logs) if as_json else show(folder.resolve().name, replies, logs)
