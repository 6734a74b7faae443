"""Errors are one line and an exit code; the agent's process never sees typer or rich."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgehost import __version__
from edgehost.cli.app import COMMANDS
from edgehost.cli.exits import answer_code, exit_code
from edgehost.control.client import AnswerTimeoutError, NoAgentError, RefusedError
from edgehost.control.protocol import Refused
from edgehost.errors import ConfigError, ControlError, ManifestError, PluginError, StartError, TriggerError


def test_version(cli):
    assert cli("--version").out == f"edgehost {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(cli, arguments):
    result = cli(*arguments)
    assert result.code == 0
    assert all(name in result.out for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "agent"])
def test_every_command_has_help(cli, name):
    result = cli(name, "--help")
    assert result.code == 0 and "Usage: edgehost " + name in result.out


USAGE = {
    ("fly",): "edgehost: no such command 'fly'; see `edgehost --help`",
    ("check", "--zzz"): "edgehost: no such option: --zzz; see `edgehost check --help`",
    ("invoke",): (
        "edgehost: invalid value: give the NAME of a function of the running agent, or --local FOLDER; one of the two; "
        "see `edgehost invoke --help`"
    ),
    ("new", "Big"): (
        "edgehost: invalid value for 'NAME': 'Big' is not a name; use 1 to 63 of a-z, 0-9, - and _, "
        "with a letter or digit first and last; see `edgehost new --help`"
    ),
    ("run", "--http", "8080"): (
        "edgehost: invalid value for '--http': '8080' is no address to listen at; give HOST:PORT, "
        "as in 127.0.0.1:8080 or [::1]:8080; see `edgehost run --help`"
    ),
    ("run", "--broker", "localhost"): (
        "edgehost: invalid value for '--broker': 'localhost' is no broker; give embedded, mqtt://HOST[:PORT] "
        "or mqtts://HOST[:PORT]; see `edgehost run --help`"
    ),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE.items(), ids=[" ".join(key) for key in USAGE])
def test_a_usage_mistake_is_one_line_and_2(cli, arguments, message):
    result = cli(*arguments)
    assert (result.code, result.out, result.err) == (2, "", message + "\n")


def test_with_json_an_error_is_one_object_on_standard_error(cli, tmp_path):
    usage = cli("invoke", "--json")
    assert (usage.code, usage.out, usage.error["error"]) == (2, "", "usage")
    absent = cli("functions", "--json", "--socket", tmp_path / "s")
    assert (absent.code, absent.out, absent.error["error"]) == (4, "", "no_agent")
    assert absent.error["message"].startswith(f"no agent answers at {tmp_path}/s")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StartError("x"), 1),
        (TriggerError("x"), 1),
        (ManifestError("x"), 3),
        (ConfigError("x"), 3),
        (PluginError("x"), 3),
        (NoAgentError("x"), 4),
        (RefusedError(Refused("manifest", "x")), 5),
        (ControlError("x"), 5),
        (AnswerTimeoutError("x"), 6),
    ],
)
def test_each_error_has_its_exit_code(error, code):
    assert exit_code(error) == code


@pytest.mark.parametrize(
    ("status", "code", "expected"), [(200, "", 0), (302, "", 0), (399, "", 0), (400, "", 1), (500, "", 1), (200, "raised", 1)]
)
def test_an_answers_exit_code_follows_its_status(status, code, expected):
    assert answer_code(status, code) == expected


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_agents_entry_imports_neither_typer_nor_rich():
    loaded = modules_after("import edgehost.cli.entry, edgehost.agent, edgehost.control.local")
    assert loaded.isdisjoint({"typer", "rich", "click"})


def test_invoke_imports_only_what_it_needs():
    loaded = modules_after("import edgehost.cli.app as a; a.build('invoke')")
    assert loaded.isdisjoint({"asyncio", "edgehost.cli.checks", "edgehost.cli.new", "edgehost.deployment"})


def test_agent_reaches_the_agent_with_its_own_options(program):
    result = program("agent", "--help")
    assert result.code == 0 and "--function" in result.out and "--config" in result.out


@pytest.mark.parametrize("arguments", [["--version"], ["functions"], ["functions", "--json"], ["invoke", "echo", "--body", "x"]])
def test_a_reader_that_has_left_ends_it_quietly(agent, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    environ = {**os.environ, "EDGEHOST_SOCKET": str(agent)}
    command = [sys.executable, "-m", "edgehost.cli.entry", *arguments]
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=60, env=environ, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
