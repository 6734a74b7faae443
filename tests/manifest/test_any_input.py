"""Whatever stands in a manifest, its reader gives a Manifest or raises a ManifestError of one line, and never anything else."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgehost.errors import ManifestError
from edgehost.manifest import read_manifest
from edgehost.manifest.assemble import assemble
from edgehost.manifest.model import Manifest
from edgehost.manifest.place import toml_place

KEYS = [
    *(set(Manifest.__struct_fields__) - {"folder", "source"}),
    *("kind", "topics", "qos", "batch", "size", "wait", "wait_s", "every", "schedule", "memory", "level", "on", "timeout"),
    *("routes", "onnx", "model", "python", "policy", "delay", "cors", "body_limit", "", "a.b", "\n"),
]
WORDS = [
    *("mqtt", "http", "cron", "log", "function", "python", "onnx", "main:handler", "main", "a:b", "__main__:x"),
    *("", "\0", "1s", "5MB", "a/#/b", "/", "x"),
]
YAML_KEYS = [
    *("metadata", "name", "spec", "handler", "runtime", "env", "value", "triggers", "t", "kind", "attributes", "subscriptions"),
    *("topic", "qos", "schedule", "interval", "numWorkers", "batch", "mode", "resources", "limits", "memory", "loggerSinks"),
    *("level", "build", "cors", "enabled", "eventTimeout"),
]

leaf = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 3), st.just(10**40), st.floats(), st.sampled_from(WORDS), st.text(max_size=4),
    st.just(date(2026, 1, 1)),
)  # fmt: skip


def tables(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    key = st.one_of(st.sampled_from(keys), st.text(max_size=3))
    value = st.recursive(
        leaf, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(key, inner, max_size=5)), max_leaves=12
    )
    return st.dictionaries(key, value, max_size=6)


def check(table: dict[str, Any], folder: Path) -> None:
    try:
        manifest = assemble(table, folder, folder / "function.toml", toml_place("function.toml"))
    except ManifestError as error:
        assert str(error).startswith("function.toml")
        assert len(str(error).splitlines()) == 1
    else:
        assert isinstance(manifest, Manifest)


any_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@any_folder
@given(tables(KEYS))
@example({"handler": "main:handler", "triggers": {"t": {"kind": "mqtt", "topics": ["a"], "batch": {"size": 1}}}})
@example({"handler": "main:handler", "name": "x" * 64})
def test_any_table_with_plugins_of_the_tests(plugins: None, folder: Path, table: dict[str, Any]) -> None:
    check(table, folder)


@any_folder
@given(tables(KEYS))
@example({"handler": "__main__:x"})
@example({"runtime": "onnx", "onnx": {"model": "\0"}})
@example({"handler": "a:b", "triggers": {"t": {"kind": "http", "routes": ["x"]}}})
@example({"handler": "a:b", "triggers": {"t": {"kind": "cron", "schedule": "61 * * * *"}}})
@example({"handler": "a:b", "triggers": {"t": {"kind": "cron", "schedule": "0 0 * * *", "timezone": "../../etc/passwd"}}})
@example({"handler": "a:b", "outputs": {"o": {"kind": "mqtt", "topic": "{nothing}"}}})
def test_any_table_with_the_real_plugins(folder: Path, table: dict[str, Any]) -> None:
    check(table, folder)


@any_folder
@given(tables(YAML_KEYS))
@example({"spec": {"loggerSinks": [[]]}})
def test_any_nuclio_document(plugins: None, folder: Path, document: dict[str, Any]) -> None:
    import yaml

    (folder / "function.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    try:
        read_manifest(folder)
    except ManifestError as error:
        assert str(error).startswith("thermostat/function.yaml")
        assert len(str(error).splitlines()) == 1


@any_folder
@given(st.one_of(st.binary(max_size=60), st.text(alphabet='[]{}=".:#ab1\n -&*!|>%@', max_size=60).map(str.encode)))
@pytest.mark.parametrize("name", ["function.toml", "function.yaml"])
def test_any_bytes(plugins: None, folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    try:
        read_manifest(folder)
    except ManifestError as error:
        assert str(error).startswith(f"thermostat/{name}")
        assert len(str(error).splitlines()) == 1
