"""`edgehost check`: is this machine ready? Runs every check on the real machine and shows what was found and what to do."""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from edgehost.cli import checks, journal_checks, journal_disk, kernel_probe, terminal
from edgehost.cli.broker_probe import probe
from edgehost.cli.checks import Finding
from edgehost.cli.exits import FAILED
from edgehost.cli.run import broker_choice
from edgehost.config import DEFAULT_BROKER, Broker, Config
from edgehost.engine import cgroup, landlock
from edgehost.profile.board import chosen
from edgehost.profile.here import look
from edgehost.service.files import CONFIG, STATE
from edgehost.state import state_folder

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
ROOT = Path("/")


def command(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Look at its journal, ask its brokers.")
    ] = None,
    broker: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Ask this broker, as in mqtt://HOST; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Is this machine ready for edgehost? Each line says what was found and what to do. Ends with 1 if something fails."""
    brokers = [("", Broker(url=url)) for url in broker or [] if broker_choice(url) != "embedded"]
    settings = None
    if config is not None:
        from edgehost.config_toml import read_config

        settings = read_config(config)
        brokers += settings.brokers.items()
    findings = _findings(brokers or [("", DEFAULT_BROKER)], settings)
    if as_json:
        found = list(findings)
        terminal.print_json({"ok": not _failed(found), "findings": found})
    else:
        found = _show(findings)
    if _failed(found):
        raise typer.Exit(FAILED)


def _findings(brokers: list[tuple[str, Broker]], settings: Config | None) -> Iterator[Finding]:
    """Every check on this machine, each made when its finding is asked for."""
    yield checks.python(sys.version_info[:3])
    found = chosen(settings.profile if settings else "", ROOT)
    yield checks.machine(found, struct.calcsize("P") * 8)
    yield from checks.quirks(found.profile, look(found.profile, ROOT, os.uname().release))
    yield checks.packages(checks.installed_version)
    yield checks.http(checks.installed_version)
    yield checks.memory(ROOT)
    yield checks.temporary_folder(Path(tempfile.gettempdir()), checks.free_bytes, checks.may_read_and_write)
    yield from _journal(settings or Config())
    yield checks.kernel(os.uname().release, kernel_probe.has_memfd(), kernel_probe.has_pidfd(), landlock.version())
    yield checks.cgroups(ROOT)
    yield checks.limits(cgroup.usable(cgroup.own_folder(ROOT), os.getpid()))
    yield checks.sandbox(landlock.version())
    yield checks.clock(ROOT, time.gmtime().tm_year, kernel_probe.clock_synchronised)
    yield checks.serial_ports(ROOT, found.profile, checks.may_read_and_write)
    yield checks.gpio_chips(ROOT, checks.may_read_and_write)
    if settings is not None:
        yield checks.configuration(str(settings.source), settings.warnings)
    for name, one in brokers:
        yield checks.broker(name, one, probe)
    yield checks.onnxruntime(checks.ask_onnxruntime)


def _journal(settings: Config) -> Iterator[Finding]:
    """The journal of an agent with these settings. Those of the service say nothing of the folder that systemd makes for it."""
    of_service = settings.state is None and settings.source == Path(CONFIG)
    folder = Path(STATE) if of_service else state_folder(settings.state, os.environ, os.getuid())
    place = journal_checks.place_of(folder)
    yield journal_checks.journal(place, settings.journal, ROOT, journal_checks.may_use)
    yield journal_disk.disk(place.there, ROOT)
    yield journal_checks.room(folder, settings.journal, settings.disk)


def _failed(findings: list[Finding]) -> bool:
    return any(finding.state == "fail" for finding in findings)


def _show(findings: Iterator[Finding]) -> list[Finding]:
    """Print each finding as it is found, for some take seconds; then how many there are of each kind."""
    from rich.table import Table
    from rich.text import Text

    console = terminal.console()
    seen: list[Finding] = []
    with console.status("looking at this machine"):
        for finding in findings:
            seen.append(finding)
            row = Table.grid(padding=(0, 2, 0, 0))
            row.add_column(width=4)
            row.add_column(width=16)
            row.add_column(overflow="fold")
            advice = f"\n→ {finding.advice}" if finding.advice else ""
            row.add_row(Text(finding.state, STYLES[finding.state]), finding.name, Text(finding.found + advice))
            console.print(row)
    counts = [f"{sum(finding.state == state for finding in seen)} {state}" for state in STYLES]
    console.print(f"\n{', '.join(counts)}")
    return seen
