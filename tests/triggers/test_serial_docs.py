"""docs/serial.md is true: its examples are read, and its tables name every key with its default."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from edgehost.config_toml import read_config
from edgehost.framing import Cobs, Delimiter, Fixed, Idle, Length, Line, ModbusRtu, Nmea, Regex, Slip
from edgehost.manifest import read_manifest
from edgehost.triggers.serial import SerialSettings
from edgehost.tty.line import DEFAULTS, Rs485

PAGE = (Path(__file__).parents[2] / "docs" / "serial.md").read_text()
TABLE = dict(re.findall(r"^\| `([^|]+)` \|([^|]*)\|", PAGE, re.MULTILINE))


@pytest.mark.parametrize("text", re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
def test_the_examples_are_read(tmp_path: Path, text: str) -> None:
    name = text.split()[1]
    (tmp_path / name).write_text(text if name == "edgehost.toml" else 'handler = "main:handler"\n' + text)
    (tmp_path / "main.py").write_text("")
    if name == "edgehost.toml":
        assert read_config(tmp_path / name).serial
    else:
        assert read_manifest(tmp_path).triggers


def test_every_key_of_a_trigger_has_its_default() -> None:
    keys = {name: default for key, default in TABLE.items() for name in key.split("`, `")}
    for field in msgspec.structs.fields(SerialSettings):
        default = getattr(DEFAULTS, field.name) if field.default is None else field.default
        default = "line" if isinstance(default, Line) else "" if default is None else default
        if default != "":
            assert keys[field.name].strip("` ") == msgspec.json.encode(default).decode(), field.name
        assert field.name in keys


@pytest.mark.parametrize("struct", [Line, Delimiter, Fixed, Length, Idle, Slip, Cobs, Nmea, ModbusRtu, Regex])
def test_every_framing_and_its_keys_are_named(struct: type[Struct]) -> None:
    tag = struct.__struct_config__.tag
    assert f"| `{tag}` |" in PAGE
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{tag}` |"))
    section = PAGE.split("\n## Cut the stream\n")[1].split("\n## ")[0]
    for field in msgspec.structs.fields(struct):
        name = re.sub("_s$", "", field.name) if field.name.endswith("_s") else field.name
        spellings = {name, re.sub("_bytes$", "", name)}
        assert any(f"`{one}`" in (section if tag == "length" or "limit" in name else row) for one in spellings), field.name


def test_the_keys_of_rs485_are_named() -> None:
    for field in msgspec.structs.fields(Rs485):
        assert f"`{re.sub('_s$', '', field.name)}`" in PAGE
