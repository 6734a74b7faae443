"""Pages of pins, files, commands and sockets are true: their manifests are read, and their tables have all keys and defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import NODEFAULT, Struct

from edgehost.framing import Line
from edgehost.gpio.pwm import PwmSettings
from edgehost.manifest import read_manifest
from edgehost.triggers.exec import ExecSettings
from edgehost.triggers.file.settings import FileSettings
from edgehost.triggers.gpio import GpioOutputSettings, GpioSettings
from edgehost.triggers.socket.settings import SocketSettings

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("gpio.md", "file.md", "exec.md", "socket.md")
BLOCKS = [
    (page, block)
    for page in PAGES
    for block in re.findall(r"^```toml\n# function\.toml\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_manifests_in_the_pages_are_read(tmp_path: Path, page: str, block: str) -> None:
    (tmp_path / "main.py").write_text("")
    (tmp_path / "function.toml").write_text(f'handler = "main:handler"\n{block}')
    manifest = read_manifest(tmp_path)
    assert page.removesuffix(".md") in {one.kind for one in (*manifest.triggers, *manifest.outputs)}
    assert manifest.warnings == ()


def rows(page: str, number: int) -> dict[str, str]:
    """Key to default, of the page's table of settings with that number."""
    table = re.findall(r"^\| setting \|.*?\n\n", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)[number]
    cells = [row.split("|") for row in table.splitlines()[2:] if row]
    return {name: default.strip() for _, names, default, *_ in cells for name in re.findall(r"`(\w+)`", names)}


def written(default: Any) -> set[str]:
    """How a page may write a default."""
    if default is NODEFAULT or default is None:
        return {"needed", "none", "one of both is needed", "that of edgehost.toml", "the system's", "lines; a datagram whole"}
    if isinstance(default, Line):
        return {'`"line"`'}
    text = msgspec.json.encode(default).decode()
    number = f"{default:g}" if isinstance(default, float) else text
    return {text, number, f"`{text}`", "one of both is needed", "`line` or `pwm` is needed"}


@pytest.mark.parametrize(
    ("page", "number", "struct"),
    [
        ("gpio.md", 0, GpioSettings),
        ("gpio.md", 1, GpioOutputSettings),
        ("file.md", 0, FileSettings),
        ("exec.md", 0, ExecSettings),
        ("socket.md", 0, SocketSettings),
    ],
)
def test_every_setting_has_its_row_and_its_default(page: str, number: int, struct: type[Struct]) -> None:
    table = rows(page, number)
    fields = {re.sub("_(s|bytes)$", "", field.name): field for field in msgspec.structs.fields(struct)}
    assert set(table) == set(fields)
    for name, field in fields.items():
        default = field.default_factory() if field.default_factory is not NODEFAULT else field.default
        assert table[name] in written(default), name


def test_the_keys_of_pwm_have_their_defaults() -> None:
    text = (DOCS / "gpio.md").read_text()
    for field in msgspec.structs.fields(PwmSettings):
        shown = f'"{field.default}"' if isinstance(field.default, str) else f"{field.default:g}"
        assert re.search(rf"`{field.name}`\s\(`?{shown}", text), field.name
