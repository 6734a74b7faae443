"""The pages of the polling triggers are true: their manifests are read by the real plugins, no setting is missing or made up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import Struct

from edgehost.manifest import read_manifest
from edgehost.triggers.modbus.registers import Register
from edgehost.triggers.modbus.settings import ModbusSettings
from edgehost.triggers.poll.http_source import HttpSettings
from edgehost.triggers.poll.settings import PollSettings
from edgehost.triggers.poll.sql_source import SqlSettings
from edgehost.tty import LineSettings

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    (page, block)
    for page in ("poll.md", "modbus.md")
    for block in re.findall(r"^```toml\n# function\.toml\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_manifests_in_the_pages_are_read(tmp_path: Path, page: str, block: str) -> None:
    (tmp_path / "main.py").write_text("")
    (tmp_path / "function.toml").write_text(f'handler = "main:handler"\n{block}')
    (trigger,) = read_manifest(tmp_path).triggers
    assert trigger.kind == page.removesuffix(".md")


@pytest.mark.parametrize(
    ("page", "structs", "without"),
    [
        ("poll.md", (PollSettings, HttpSettings, SqlSettings), set()),
        ("modbus.md", (ModbusSettings, Register), set(LineSettings.__struct_fields__) - {"port"}),
    ],
)
def test_every_setting_has_its_row(page: str, structs: tuple[type[Struct], ...], without: set[str]) -> None:
    tables = re.findall(r"^\| setting .*?\n\n", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    rows = [row.split("|")[1] for table in tables for row in table.splitlines()[2:] if row]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {name for struct in structs for name in struct.__struct_fields__} - without
