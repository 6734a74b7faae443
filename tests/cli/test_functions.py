"""`edgehost functions`: every state and what needs somebody, as a table for people and as JSON for machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from edgehost import __version__
from edgehost.cli.function_table import COLOURS, view
from edgehost.cli.terminal import duration
from edgehost.control.protocol import FunctionState, FunctionStatus, Pong, TriggerState


def test_the_table_shows_counts_states_and_what_is_wrong(cli, agent):
    result = cli("functions", "--socket", agent)
    lines = [line.rstrip() for line in result.out.splitlines()]
    assert result.code == 0
    assert lines[0].startswith(f"edgehost {__version__}  pid {os.getpid()}  up ")
    assert lines[1:] == [
        "edgehost  12 MiB of 7.2 GiB are free: durable events are refused",
        "",
        "FUNCTION  STATE       WORKERS  QUEUE  BUSY  HANDLED  FAILED  DROPPED  P50 ms  P99 ms",
        "echo      ready           2/2      0     0    1,234       0        0    0.25      42",
        "broken    crash_loop      0/1      0     0        0       3        2       -       -",
        "",
        "TRIGGER     KIND  STATE",
        "broken/web  http  running",
        "broken/in   mqtt  degraded  the broker at mqtt://b refused us: bad password; see username",
        "",
        "broken  crash_loop",
        "broken  last error: ImportError: no module named x",
        "broken  manifest: spec.replicas is not used here",
    ]


def test_json_has_every_field(cli, agent):
    answer = cli("functions", "--socket", agent, "--json").json
    assert answer["agent"].keys() == {"version", "pid", "started", "troubles"}
    assert [function["name"] for function in answer["functions"]] == ["echo", "broken"]
    assert set(answer["functions"][1]) == set(FunctionStatus.__struct_fields__)
    assert answer["functions"][1]["triggers"][1]["state"] == "degraded"


def test_watch_with_json_goes_on_line_by_line(agent):
    command = [sys.executable, "-m", "edgehost.cli.entry", "functions", "--watch", "--json", "--socket", str(agent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == ""
    assert json.loads(first)["functions"] == json.loads(second)["functions"]


def test_every_state_has_a_colour():
    assert {*FunctionState.__args__, *TriggerState.__args__} <= set(COLOURS)


def test_without_functions_it_says_how_to_get_some(cli, agent, capsys):
    from edgehost.cli import terminal

    terminal.console().print(view(Pong("1", 2, 0.0), [], 90061.0))
    assert capsys.readouterr().out == (
        "edgehost 1  pid 2  up 1 d 1 h\n\nNo functions: give folders to `edgehost run`, or name them in edgehost.toml.\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (0.9, "0 s"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h"), (86400 * 400, "400 d")]
)
def test_durations_have_two_units_at_most(seconds, text):
    assert duration(seconds) == text
