"""The documentation is true: its examples are read by the real plugins, and its tables name every key with its default."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import NODEFAULT, Struct, inspect

from edgehost.config import Broker, Disk, Gpio, Http, Journal, Log, Secret, SerialPort
from edgehost.config_toml import Agent, read_config
from edgehost.errors import ManifestError
from edgehost.manifest import read_manifest
from edgehost.manifest.model import Batch, Dedupe, Limits, Manifest, OutputSpec, Queue, Retry, Sandbox, Store, TriggerSpec

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks("manifest.md", "toml") + blocks("limits.md", "toml"))
def test_manifests_in_the_docs_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "function.toml").write_text(text)
    for module in ("main", "store"):
        (tmp_path / f"{module}.py").write_text("")
    manifest = read_manifest(tmp_path)
    assert manifest.triggers
    assert manifest.warnings == ()


def test_the_error_lines_in_the_docs_are_real(tmp_path: Path) -> None:
    lines = re.findall(r"^thermostat/.+$", (ROOT / "docs" / "manifest.md").read_text(), re.MULTILINE)
    folder = tmp_path / "thermostat"
    folder.mkdir()
    temp = '[triggers.temp]\nkind = "mqtt"\ntopics = ["a"]\n'
    head = 'handler = "main:handler"\n'
    texts = [head + temp + "qos = 3", head + 'timeout = "30 parsecs"', head + temp + '[triggers.temp]\nkind = "http"']
    for line, text in zip(lines, texts, strict=True):
        (folder / "function.toml").write_text(text)
        with pytest.raises(ManifestError) as caught:
            read_manifest(folder)
        assert str(caught.value) == line


@pytest.mark.parametrize("text", blocks("config.md", "toml"))
def test_configurations_in_the_docs_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "edgehost.toml").write_text(text)
    assert read_config(tmp_path / "edgehost.toml").brokers


@pytest.mark.parametrize("text", blocks("nuclio.md", "python"))
def test_the_inline_block_in_the_docs_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "sensor.py").write_text(text)
    assert read_manifest(tmp_path).timeout_s == 30


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in ROOT.glob("examples/*/function.toml")), ids=lambda path: path.name
)
def test_examples_are_read_without_a_warning(folder: Path) -> None:
    model = msgspec.toml.decode((folder / "function.toml").read_text()).get("onnx", {}).get("model")
    if model and not (folder / model).exists():
        pytest.skip(f"{model} does not travel with the repository")
    manifest = read_manifest(folder)
    assert manifest.warnings == ()
    assert manifest.name == folder.name
    assert manifest.description


def rows(page: str, heading: str) -> dict[str, tuple[str, str]]:
    """Key to type and default, of the tables below a heading."""
    text = (ROOT / "docs" / page).read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {
        key: (kind, default) for key, kind, default in re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", text, re.MULTILINE)
    }


def written(default: Any) -> str:
    if default is None:
        return "none"
    number = int(default) if isinstance(default, float) and default.is_integer() else default
    return f"`{json.dumps(list(number) if isinstance(number, tuple) else number)}`"


NOT_ROWS = {"folder", "source", "queue", "retry", "env", "limits", "sandbox", "triggers", "outputs", "options"}
HAND_WRITTEN = {"name": "the folder's name", "handler": "none", "kind": "needed", "batch": "none", "store": "`{}`"}


@pytest.mark.parametrize(
    ("page", "heading", "struct", "without"),
    [
        ("manifest.md", "The function", Manifest, NOT_ROWS),
        ("manifest.md", "`[queue]`", Queue, set()),
        ("manifest.md", "`[retry]`", Retry, set()),
        ("manifest.md", "`[limits]`", Limits, set()),
        ("manifest.md", "`[sandbox]`", Sandbox, set()),
        ("manifest.md", "`[triggers.NAME]`", TriggerSpec, {"name", "settings"}),
        ("manifest.md", "`[triggers.NAME]`", Batch, set()),
        ("manifest.md", "`[triggers.NAME]`", Dedupe, set()),
        ("manifest.md", "`[outputs.NAME]`", OutputSpec, {"name", "settings"}),
        ("manifest.md", "`[outputs.NAME]`", Store, set()),
        ("config.md", "`[agent]`", Agent, set()),
        ("config.md", "`[brokers.NAME]`", Broker, set()),
        ("config.md", "`[secrets.NAME]`", Secret, set()),
        ("config.md", "`[serial.NAME]`", SerialPort, set()),
        ("config.md", "`[gpio]`", Gpio, set()),
        ("config.md", "`[http]`", Http, set()),
        ("config.md", "`[journal]`", Journal, set()),
        ("config.md", "`[disk]`", Disk, set()),
        ("config.md", "`[log]`", Log, set()),
    ],
)  # fmt: skip
def test_every_key_is_in_the_docs_with_its_default(page: str, heading: str, struct: type[Struct], without: set[str]) -> None:
    table = rows(page, heading)
    kind = inspect.type_info(struct)
    assert isinstance(kind, inspect.StructType)
    for field in kind.fields:
        if field.name in without | {"warnings"}:
            continue
        default = HAND_WRITTEN.get(field.name) or ("needed" if field.default is NODEFAULT else written(field.default))
        assert table[field.name][1].strip() == default, field.name


def test_no_key_is_in_the_docs_that_does_not_exist() -> None:
    known = set(Manifest.__struct_fields__) - {"folder", "source", "options", "warnings"}
    assert set(rows("manifest.md", "The function")) <= known
    assert set(rows("manifest.md", "`[limits]`")) == set(Limits.__struct_fields__)
    assert set(rows("config.md", "`[brokers.NAME]`")) == set(Broker.__struct_fields__)
